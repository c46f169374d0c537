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
from framefold.evaluation.plan.predict import Plan, Setup, predict_needs, step_seconds
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
LIGHTNING = {"fsdp2": "fsdp2"}  # the others have not been measured yet


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
    return predict_needs(setup)


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


@pytest.mark.parametrize("family", list_families())
def test_every_family_has_a_plan(family: str, tmp_path: Path) -> None:
    HOSTS[family].config().save_pretrained(tmp_path)
    work = Workload(8, 16, 24, precision="32-true")
    dtype = "bfloat16" if "moe" in family else "auto"  # torch's kernel for experts has no shapes in float32
    found = predict_needs(Setup(str(tmp_path), "fila", 0.5, None, None, work, "single", 1, dtype, None, "sdpa", False))
    assert found.visual_tokens % math.prod(HOSTS[family].grid) in (0, 1, 8)  # with a newline, or a token per frame
    assert 0 < found.kept_tokens < found.visual_tokens and min(found.flops.values()) > 0
    with torch.device("meta"):
        model = HOSTS[family].build()
    assert found.parameters["tower"] + found.parameters["language"] == model.base_model.num_parameters()


@pytest.mark.parametrize("frames", [16, 40])
def test_few_frames_of_the_tower_predict_all(frames: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    HOSTS["qwen2_5_vl"].config().save_pretrained(tmp_path)
    work = Workload(frames, 16, 24, precision="32-true")
    setup = Setup(str(tmp_path), "uniform", 0.5, None, None, work, "single", 1, "auto", None, "sdpa", False)
    few = predict_needs(setup)
    monkeypatch.setattr("framefold.evaluation.plan.tower.FEW", frames)
    all_frames = predict_needs(setup)
    assert few.visual_tokens == all_frames.visual_tokens and few.flops == all_frames.flops
    assert few.total == pytest.approx(all_frames.total, rel=0.05)


def test_a_strategy_divides_what_it_says() -> None:
    cost = StepCost(100, 10.0, {}, {"activations": 1000, "gradients": 80, "optimizer": 160}, {"tower": 1}, 1)
    weights = Weights(linear=8000, largest=100, language=2000, tower=400, trained=80, element=4)
    total = {
        name: {gpus: sum(divide(cost, weights, name, gpus, False, 10)[0].values()) for gpus in (2, 8)}
        for name in STRATEGIES
    }
    assert total["single"][2] == total["single"][8] == 1000 + 240 + 10400 + 80
    assert total["ddp"][2] == total["single"][2] + 80
    assert total["zero_2"][2] - total["zero_2"][8] == (80 + 160) * 3 // 8
    assert total["fsdp2"][2] - total["fsdp2"][8] == (8000 + 80 + 80 + 160) * 3 // 8
    assert total["zero_3"][2] - total["zero_3"][8] == (10000 + 80 + 80 + 160) * 3 // 8
    assert total["fsdp2"][8] < total["ddp"][8]


def test_the_time_is_between_products_and_everything_in_turn() -> None:
    assert step_seconds(2e12, 3e9, 1.0, None) == (2.0, 4.0)
    assert step_seconds(2e12, 3e9, 1.0, 1.0) == (3.0, 5.0)


def test_longer_videos_and_larger_budgets_need_more(tmp_path: Path) -> None:
    HOSTS["qwen3_vl"].config().save_pretrained(tmp_path)

    def total(frames: int, budget: float, **changed: Any) -> int:
        work = Workload(frames, 64, 64, precision="32-true", **changed)
        setup = Setup(str(tmp_path), "resampler", budget, None, None, work, "single", 1, "auto", None, "sdpa", False)
        return predict_needs(setup).total

    assert total(32, 0.1) > 1.3 * total(16, 0.1)  # at the peak of the vision encoder
    small = total(16, 0.1, features=True)
    assert total(16, 0.5, features=True) > small and total(16, 0.1, batch=2, features=True) > small
    assert small < total(16, 0.1)


def test_the_command_prints_a_table_writes_json_and_says_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    HOSTS["qwen2_5_vl"].config().save_pretrained(tmp_path)
    common = {"host": str(tmp_path), "frames": 16, "size": 64, "precision": "32-true", "batch": 2}
    found = plan(**common, tflops=1.0, out=str(tmp_path / "plan.json"))
    text = capsys.readouterr().out
    assert f"visual tokens of a video: {found.visual_tokens:,}" in text and "time of a step" in text
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["total_bytes"] == found.total == sum(written["memory"].values())
    assert written["settings"]["work"]["frames"] == 16 and written["advice"] == []
    plan(**common, gpu_memory=1.01 * found.total / 1e9)
    assert "fits into" in capsys.readouterr().out
    plan(**common, gpu_memory=0.7 * found.total / 1e9)
    lines = capsys.readouterr().out.splitlines()
    assert any("does not fit" in line for line in lines) and lines[-1].endswith(", fits")
    plan(**common, gpu_memory=1e-9)
    assert "not enough" in capsys.readouterr().out.splitlines()[-1]


def test_methods_that_decide_by_values_are_replaced_and_named(tmp_path: Path) -> None:
    HOSTS["qwen2_5_vl"].config().save_pretrained(tmp_path)
    work = Workload(8, 64, 64, precision="32-true")
    setup = Setup(str(tmp_path), "divprune", 0.25, None, None, work, "single", 1, "auto", None, "sdpa", False)
    found = predict_needs(setup)
    assert found.kept_tokens == found.visual_tokens // 4 and "divprune" in found.notes[0]
    assert "optimizer" not in found.memory


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus": 2}, "--strategy ddp"),
        ({"frames": 0}, "at least 1"),
        ({"tflops": -1.0}, "positive"),
        ({"frames": 10**8}, "1600000000 visual tokens, and a plan is for at most"),
        ({"out": "."}, "is a folder: give a file in it"),
        ({"out": "/dev/null/plan.json"}, "cannot be created"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**settings)
    with pytest.raises(HostError):
        plan(host="no/where")
