"""``framefold bench compress``: times in multiples of a yardstick, memory, and tokens of compressors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters import list_compressors
from framefold.errors import BudgetError, ConfigError, UnknownCompressorError
from framefold.evaluation.bench import compressors as bench_compress
from framefold.evaluation.bench.compressors import INPUTS, YARDSTICK
from framefold.evaluation.metrics.timing import Stopwatch

SMALL: dict[str, Any] = {"frames": [4], "grid": (3, 2), "width": 8, "repeats": 1, "budgets": [0.5]}


def test_every_compressor_is_measured_at_every_budget(capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench_compress.bench_compress(**SMALL | {"budgets": [0.25, 0.5], "inputs": ["noise"]})
    outside = {name for name in list_compressors() if framefold.build(name).in_llm is None}
    assert {row["compressor"] for row in rows} - {YARDSTICK} == outside
    for row in rows:
        assert row["tokens_in"] == 24 and row["seconds"] > 0 and row["frames"] == 4
        if row["compressor"] not in (YARDSTICK, "identity"):
            assert row["tokens_out"] == 24 * row["budget"]
        assert row["peak_inputs"] == row["peak_bytes"] / (24 * 8 * 4)
    assert rows[0]["yardsticks"] == 1
    assert "uniform" in capsys.readouterr().out


def test_results_are_written_with_their_settings_and_plotted(tmp_path: Path) -> None:
    out = tmp_path / "bench"
    rows = bench_compress.bench_compress(
        ["uniform"], **SMALL | {"frames": [2, 4], "inputs": ["scenes", "one"]}, out=str(out)
    )
    content = json.loads((out / "bench.json").read_text())
    assert content["rows"] == rows and content["grid"] == [3, 2] and content["torch"] == torch.__version__
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.png"]


def test_parameters_reach_the_compressor() -> None:
    rows = bench_compress.bench_compress(
        ["st_simdiff"], **SMALL | {"inputs": ["noise"]}, params={"st_simdiff": {"variant": "official"}}
    )
    assert rows[-1]["tokens_out"] == 24  # no tokens are similar, so the release keeps everything


def test_operations_and_parameters_are_counted() -> None:
    """xpool has a key per token, of content and time, a query per word, and their products; pool has no products."""
    rows = bench_compress.bench_compress(["pool", "xpool"], **SMALL | {"inputs": ["noise"]})
    _, pool, xpool = rows
    assert (pool["flops"], pool["parameters"]) == (0, 0)
    assert xpool["parameters"] == 2 * 8 * 64 + 32 * 64 + 64
    words = bench_compress.WORDS
    assert xpool["flops"] == 2 * (24 * (8 + 32) * 64 + words * 8 * 64 + 24 * words * 64)


def test_ratios_are_those_of_medians_of_alternating_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 9.0, 2.0, 4.0, 1.0, 3.0, 3.0, 20.0])  # yardstick and uniform: a warm-up, then three turns

    class FakeStopwatch(Stopwatch):
        def stop(self) -> None:
            self.seconds = next(times)

    monkeypatch.setattr(bench_compress, "Stopwatch", FakeStopwatch)
    rows = bench_compress.bench_compress(["uniform"], **SMALL | {"inputs": ["noise"], "repeats": 3})
    assert [row["seconds"] for row in rows] == [2.0, 4.0] and rows[1]["yardsticks"] == 2.0


def test_slow_compressors_take_part_in_fewer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.1, 9.0, *[0.1, 3.0] * 3, 0.1, 0.1])  # a warm-up, three turns of both, and two of the yardstick

    class FakeStopwatch(Stopwatch):
        def stop(self) -> None:
            self.seconds = next(times)

    monkeypatch.setattr(bench_compress, "Stopwatch", FakeStopwatch)
    rows = bench_compress.bench_compress(["uniform"], **SMALL | {"inputs": ["noise"], "repeats": 5})
    assert rows[1]["seconds"] == 3.0 and next(times, None) is None


def test_number_of_threads_is_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="it does not run"):
        bench_compress.bench_compress(["broken_for_this_test"], **SMALL | {"inputs": ["noise"]}, threads=before + 1)
    assert torch.get_num_threads() == before


class Broken(torch.nn.Module):
    def forward(self, *_: Any) -> Any:
        raise RuntimeError("it does not run")


@pytest.fixture(autouse=True)
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    build = bench_compress.build

    def with_broken(name: str, *args: Any, **params: Any) -> Any:
        return Broken() if name == "broken_for_this_test" else build(name, *args, **params)

    monkeypatch.setattr(bench_compress, "build", with_broken)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frames": []}, ConfigError, "at least 1"),
        ({"width": 0}, ConfigError, "at least 1"),
        ({"inputs": ["real"]}, ConfigError, "scenes, one, noise, got real"),
        ({"dtype": "float31"}, ConfigError, "float31"),
        ({"dtype": "int64"}, ConfigError, "int64"),
        ({"device": "abacus"}, ConfigError, "abacus"),
        ({"threads": 0}, ConfigError, "at least 1"),
        ({"out": __file__}, ConfigError, "is a file"),
        ({"budgets": [0.0]}, BudgetError, "0.0"),
        ({"compressors": ["unheard_of"]}, UnknownCompressorError, "unheard_of"),
        ({"params": {"uniform": {"size": 2}}}, ConfigError, "size"),
    ],
)
def test_wrong_settings_are_errors_before_any_measurement(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_compress, "_measure", lambda *args: pytest.fail("something was measured"))
    with pytest.raises(error, match=message):
        bench_compress.bench_compress(**SMALL | arguments)


def test_inputs_have_the_similarities_of_their_names() -> None:
    def temporal(kind: str) -> torch.Tensor:
        x = INPUTS[kind](32, 4, 4, 64, torch.Generator().manual_seed(0))
        return bench_compress.yardstick(x)

    assert temporal("one").min() > 0.9 and temporal("noise").abs().max() < 0.7
    scenes = temporal("scenes")
    assert scenes[15].mean() < 0.3 < 0.6 < scenes[:15].mean()  # a cut after 16 frames
