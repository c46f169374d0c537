"""Outputs of the authors' released code, from tests/assets/golden or the folder named by FRAMEFOLD_GOLDEN.

The check is chosen by the prefix of the file's name: ``tests/support/golden/<prefix>.py`` holds it. Files of methods
without a check are skipped by name.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.paths import ASSETS, ROOT

FOLDER = Path(os.environ.get("FRAMEFOLD_GOLDEN") or ASSETS / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
PREFIXES = sorted(file.stem for file in (ROOT / "tests" / "support" / "golden").glob("*.py"))


def check_for(file: Path) -> Callable[[Any], None] | None:
    """The check of the method that a golden file is named after."""
    for prefix in PREFIXES:
        if file.name.startswith(f"{prefix}_"):
            return importlib.import_module(f"tests.support.golden.{prefix}").check
    return None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden(file: Path) -> None:
    check = check_for(file)
    if check is None:
        pytest.skip(f"no check for {file.name}")
    with np.load(file) as data:
        check(data)


def test_golden_files_are_there() -> None:
    assert FILES, f"no golden files in {FOLDER}"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_check_has_files_here(prefix: str) -> None:
    assert list((ASSETS / "golden").glob(f"{prefix}_*.npz"))
