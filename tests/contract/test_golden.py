"""Outputs of the authors' released code, from tests/assets/golden or the folder named by FRAMEFOLD_GOLDEN.

The check of a file is chosen by the prefix of its name: ``tests/support/golden/<prefix>.py`` contains it.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.cases import case
from tests.support.paths import ASSETS, ROOT

FOLDER = Path(os.environ.get("FRAMEFOLD_GOLDEN") or ASSETS / "golden")
PREFIXES = sorted(file.stem for file in (ROOT / "tests" / "support" / "golden").glob("*.py"))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_golden_files(prefix: str) -> None:
    check = importlib.import_module(f"tests.support.golden.{prefix}").check
    files = sorted([*FOLDER.glob(f"{prefix}.npz"), *FOLDER.glob(f"{prefix}_*.npz")])
    assert files or FOLDER != ASSETS / "golden", f"no golden files of {prefix}"
    for file in files:
        with case(file.name), np.load(file) as data:
            check(data)


def test_every_golden_file_has_a_check() -> None:
    files = sorted(FOLDER.glob("*.npz"))
    assert files, f"no golden files in {FOLDER}"
    starts = tuple(f"{prefix}_" for prefix in PREFIXES)
    unchecked = [file.name for file in files if file.stem not in PREFIXES and not file.name.startswith(starts)]
    assert not unchecked or FOLDER != ASSETS / "golden", unchecked
