"""``framefold bench ssm`` measures both blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from framefold.errors import ConfigError
from framefold.evaluation.bench import mamba2 as bench_ssm


def test_both_blocks_are_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real, processes = bench_ssm._run, []

    def run(name: str, settings: dict[str, Any]) -> dict[str, float]:
        """Ours in a new process, as always; theirs in this one, which has imported transformers already."""
        if name == bench_ssm.THEIRS:
            return bench_ssm._measure(name, settings)
        processes.append(name)
        return real(name, settings)

    monkeypatch.setattr(bench_ssm, "_run", run)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    rows = bench_ssm.bench_ssm(length=2048, width=64, headdim=16, state=16, repeats=1)
    assert list(rows) == ["framefold", "transformers"] and processes == ["framefold"]
    for row in rows.values():
        assert row["cpu_s"] > 0 and row["wall_s"] > 0 and row["peak_mb"] > 5
    assert "transformers / framefold: time" in capsys.readouterr().out


def test_both_blocks_have_parameters_of_the_same_shapes() -> None:
    settings = {"width": 64, "headdim": 16, "state": 16, "checkpointing": False}
    shapes = [
        {name: p.shape for name, p in bench_ssm._block(name, settings).named_parameters()}  # type: ignore[arg-type]
        for name in (bench_ssm.OURS, bench_ssm.THEIRS)
    ]
    assert shapes[0] == shapes[1]


def test_results_are_medians_of_alternating_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(name: str, settings: dict) -> dict[str, float]:
        order.append(name)
        return {"cpu_s": float(len(order)), "wall_s": 1.0, "peak_mb": 1.0}

    monkeypatch.setattr(bench_ssm, "_run", run)
    rows = bench_ssm.bench_ssm(repeats=3)
    assert order == ["framefold", "transformers"] * 3
    assert rows["framefold"]["cpu_s"] == 3 and rows["transformers"]["cpu_s"] == 4


def test_wrong_numbers_are_errors() -> None:
    with pytest.raises(ConfigError, match="headdim"):
        bench_ssm.bench_ssm(headdim=7)
