"""Outputs of the authors' released code, from tests/golden or the folder named by FRAMEFOLD_GOLDEN.

The check is chosen by the prefix of the file's name: ``golden_<prefix>.py`` beside this file holds it. Files of methods
without one are skipped by name.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("FRAMEFOLD_GOLDEN") or HERE / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
PREFIXES = sorted(file.stem.removeprefix("golden_") for file in HERE.glob("golden_*.py"))


def check_for(file: Path) -> Callable[[Any], None] | None:
    """The check of the method that a golden file is named after."""
    for prefix in PREFIXES:
        if file.name.startswith(f"{prefix}_"):
            return importlib.import_module(f"{__package__}.golden_{prefix}").check
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
    assert list((HERE / "golden").glob(f"{prefix}_*.npz"))
