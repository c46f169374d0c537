"""Separate processes for tests that need torchvision, which must be found before transformers is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.limits import HANG
from tests.support.paths import ROOT

SETUP_FOLDER = Path(sys.prefix) / "torchvision"  # where make setup installs it
needs_torchvision = pytest.mark.skipif(
    not SETUP_FOLDER.is_dir() and find_spec("torchvision") is None, reason="torchvision is not installed (make setup)"
)


def python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python without a network; a nonzero exit status raises nothing."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=HANG)
