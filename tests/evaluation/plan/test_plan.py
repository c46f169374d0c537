"""The predictions of ``framefold plan`` against real trainings, and their arithmetic."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.adapters.hosts.base.family import list_families
from framefold.errors import ConfigError, HostError
from framefold.evaluation.plan.command import plan
from framefold.evaluation.plan.per_gpu import STRATEGIES, Weights, divide
from framefold.evaluation.plan.predict import Plan, Setup, predict, step_seconds
from framefold.evaluation.plan.step import StepCost
from framefold.evaluation.plan.workload import Workload
from tests.support.hosts.tiny_families import HOSTS
from tests.support.limits import HANG
from tests.support.plan.measured_fit import BUCKET, measure, random_host

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 192}
DEEPER = {"hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 512}
# compressor, budget, frames, videos in a batch, precision, sizes of the host
SINGLE = [
    ("fila", 0.25, 48, 2, "32-true", SMALL),
    ("qtsplus", 0.25, 32, 1, "32-true", SMALL),
    ("fila", 0.5, 96, 1, "bf16-mixed", SMALL),
    ("storm", 0.1, 32, 1, "32-true", SMALL),
    ("resampler", 64, 64, 3, "32-true", DEEPER),
    ("vision_selector", 0.2, 16, 2, "32-true", DEEPER),
]
LIGHTNING = {"ddp": "ddp", "zero_2": "deepspeed_cpu_stage_2", "zero_3": "deepspeed_cpu_stage_3", "fsdp2": "fsdp2"}


def predicted(host: Path, case: dict[str, Any], found: dict[str, Any], strategy: str = "single") -> Plan:
    """Predict the step that a real training has taken."""
    rows, length = found["rows"]
    work = Workload(case["frames"], 64, 64, case["batch"], rows // case["batch"], length - 1, 1, 1)
    work = replace(work, precision=case["precision"])
    gpus = 1 if strategy == "single" else 2
    setup = Setup(
        str(host), case["compressor"], case["budget"], None, None, work, strategy, gpus, "auto", None, "sdpa", False,
        BUCKET,
    )  # fmt: skip
    return predict(setup)


@pytest.mark.timeout(HANG)
@pytest.mark.parametrize("case", SINGLE, ids=lambda case: f"{case[0]}-{case[2]}-{case[4]}")
def test_the_peak_is_within_15_percent_of_that_of_a_training(case: Any, tmp_path: Path) -> None:
    compressor, budget, frames, batch, precision, sizes = case
    host = random_host(tmp_path / "host", **sizes)
    chosen = {"compressor": compressor, "budget": budget, "frames": frames, "batch": batch, "precision": precision}
    found = measure({**chosen, "host": str(host)})
    assert predicted(host, chosen, found).total == pytest.approx(found["bytes"], rel=0.15)


@pytest.mark.timeout(2 * HANG)
@pytest.mark.parametrize("strategy", LIGHTNING)
def test_the_peak_of_a_rank_is_within_15_percent_of_that_of_a_training(strategy: str, tmp_path: Path) -> None:
    host = random_host(tmp_path / "host", hidden_size=256, num_hidden_layers=6, intermediate_size=1024)
    chosen = {"compressor": "qtsplus", "budget": 0.25, "frames": 16, "batch": 1, "precision": "32-true"}
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({**chosen, "host": str(host), "devices": 2, "strategy": LIGHTNING[strategy]}))
    command = [sys.executable, "-m", "tests.support.plan.measured_fit", str(settings)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads((tmp_path / "rank-0.json").read_text())
    assert predicted(host, chosen, found, strategy).total == pytest.approx(found["bytes"], rel=0.15)
