"""A results folder, the data of its page, and a browser that shows it. Tests must not change the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages.browser import Browser, wait_for_panels
from tests.support.pages.page_reader import read_page
from tests.support.pages.results_folders import fill_results


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="package")
def data(folder: Path) -> dict[str, Any]:
    return read_page(folder)[1]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, folder: Path, data: dict[str, Any]) -> Browser:
    """Open the page, which ``data`` has written."""
    browser.open(folder / "report.html")
    wait_for_panels(browser)
    return browser
