"""Our Mamba-2 against mamba-ssm's own Triton kernels, run on the CPU by Triton's interpreter; `make oracle` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.limits import HANG
from tests.support.paths import ROOT

ASKED = os.environ.get("FRAMEFOLD_TRITON_ORACLE", "")
FOLDER = (
    Path(sys.prefix) / "triton-oracle" if ASKED == "1" else Path(ASKED).resolve()
)  # `make oracle` puts the packages there
MISSING = [name for name in ("triton", "mamba_ssm", "einops") if not (FOLDER / name).is_dir()]
CASES = [
    "scan, one chunk", "scan, odd length, two groups", "scan, limited steps", "block, plain",
    "block, two groups, biases", "block, no bias at all", "block, skip a channel, norm first", "block, limited steps",
    "block, no norm",
]  # fmt: skip
SUMMED = ("decay", "bias", "dt_bias", "A_log", "D")  # one number per head, a sum of many that cancel
pytestmark = [
    pytest.mark.skipif(not ASKED, reason="opt-in, about half a minute: make oracle"),
    pytest.mark.skipif(bool(ASKED and MISSING), reason=f"{FOLDER} has no {', '.join(MISSING)}: make oracle"),
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Report of the script; a process that takes too long is killed (SIGKILL)."""
    paths = os.pathsep.join([str(ROOT), str(FOLDER)])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "tests" / "support" / "triton_oracle.py")]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print({name: report[name] for name in ("triton", "mamba_ssm")})
    return report


def test_the_kernels_are_those_of_the_folder(report: dict[str, Any]) -> None:
    assert Path(report["folder"]).is_relative_to(FOLDER) and sorted(report["errors"]) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_the_kernels(report: dict[str, Any], case: str) -> None:
    errors = report["errors"][case]
    print({name: f"{error:.1e}" for name, error in errors.items()})
    assert len(errors) > 8
    for name, error in errors.items():
        assert error < (5e-5 if name.split()[-1] in SUMMED else 3e-6), name
