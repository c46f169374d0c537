"""``make gpu-check`` in tiny sizes on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from framefold.evaluation.bench import attach
from framefold.evaluation.gpu_check import check as gpu_check

TINY = ((32, 1, 4, 2, 48, 4096), (16, 1, 2, 32))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attach.SIZES, "small", dict.fromkeys(("qwen2_5_vl", "qwen3_vl"), TINY))


def test_the_rehearsal_runs_every_part(tiny: None, tmp_path: Path) -> None:
    assert gpu_check.main(["--out", str(tmp_path), "--rehearsal"]) == 0
    parts: dict[str, Any] = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    for family in ("qwen2_5_vl", "qwen3_vl"):
        rows = parts[f"prefill {family}"]
        assert rows["st_simdiff@0.1"]["columns"] < rows["st_simdiff@0.25"]["columns"] < rows["host alone"]["columns"]
        assert min(row["prefill_s"] for name, row in rows.items() if name != "seconds") > 0
    assert parts["requests"]["0.1 x 2"] > 0 and parts["products"]["tflops"] > 0
    step = parts["training step against plan"]
    assert step["step_s"] > 0 and 0 < step["planned_s"][0] < step["planned_s"][1]
    assert all("error" not in part for part in parts.values())
    table = (tmp_path / "gpu_check.md").read_text()
    assert all(f"| {name} |" in table for name in parts)


def test_a_part_that_fails_is_named_and_the_others_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> Any:
        raise RuntimeError("no kernel\nimage")

    monkeypatch.setattr(gpu_check, "_parts", lambda rehearsal: {"one": fail, "two": lambda: {"value": 1.0}})
    assert gpu_check.main(["--out", str(tmp_path), "--rehearsal"]) == 1
    parts = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]
    assert parts["one"]["error"] == "RuntimeError: no kernel image" and parts["two"]["value"] == 1.0


def test_parts_without_time_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "_parts", lambda rehearsal: {"one": lambda: {"value": 1.0}})
    assert "no time" in gpu_check.check(tmp_path, True, -1.0)["parts"]["one"]["left_out"]
