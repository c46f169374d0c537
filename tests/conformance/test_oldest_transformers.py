"""The oldest supported transformers passes a part of the conformance suite, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from framefold.adapters.hosts.base.family import OLDEST_TRANSFORMERS
from tests.support.paths import ROOT

FOLDER = Path(sys.prefix) / "transformers-oldest"  # `make setup` puts it there
PARTS = ["bit_identical", "masked_out", "position_of_its_anchor", "exactly", "cached", "ragged_batch", "checkpointing"]
RUN = """
import sys, pytest, transformers
print("transformers", transformers.__version__, transformers.__file__)
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there: make setup")
def test_the_conformance_suite_passes_on_the_oldest_supported_transformers() -> None:
    tests = Path(__file__).parent
    files = [str(tests / f"test_{part}.py") for part in ("forward", "generate", "training")]
    chosen = f"sdpa and not right and ({' or '.join(PARTS)})"
    arguments = ["-q", "--no-header", "-p", "no:cacheprovider", "-k", chosen, *files]
    environment = os.environ | {"PYTHONPATH": str(FOLDER), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    told = re.search(r"^transformers (\S+) (\S+)$", done.stdout, re.MULTILINE)
    assert told, done.stderr[-2000:]
    assert told[1].startswith(f"{OLDEST_TRANSFORMERS}.") and Path(told[2]).is_relative_to(FOLDER)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed and int(passed[1]) > 150, done.stdout[-4000:]
