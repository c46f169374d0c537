"""The public names of framefold, and when they are imported."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import framefold
from framefold import errors
from tests.support.limits import HANG

NAMES = {
    *("Compressed", "Compressor", "FramefoldError", "Merger", "Selector", "VideoTokens"),
    *(
        "ablate",
        "answer",
        "attach",
        "build",
        "compressor_losses",
        "detach",
        "errors",
        "init_from_host",
        "list_compressors",
    ),
    *("list_families", "load", "load_peft", "register_family", "save_peft", "show"),
}


def test_public_names_exist_and_are_documented() -> None:
    assert set(framefold.__all__) == NAMES and framefold.__all__ == sorted(framefold.__all__)
    assert set(dir(framefold)) >= NAMES
    undocumented = [name for name in framefold.__all__ if not getattr(framefold, name).__doc__]
    assert not undocumented
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        framefold.no_such_name  # noqa: B018
    assert "qwen2_vl" in framefold.list_families()


def test_every_error_is_in_framefold_errors_and_is_a_framefold_error() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    assert all(issubclass(cls, framefold.FramefoldError) and cls.__module__ == "framefold.errors" for cls in classes)
    with pytest.raises(framefold.errors.BudgetError):
        framefold.build("uniform", 2.0)


def test_importing_framefold_and_its_errors_imports_no_torch() -> None:
    code = """
import sys, framefold
heavy = {"torch", "transformers", "numpy"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
framefold.errors.BudgetError
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
