"""``framefold bench compress`` measures what it says, in multiples of a yardstick, and memory is counted exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.adapters import list_compressors
from framefold.errors import BudgetError, ConfigError, UnknownCompressorError
from framefold.evaluation.bench import compressors as bench_compress
from framefold.evaluation.bench.compressors import INPUTS, YARDSTICK
from framefold.evaluation.metrics.memory import peak_bytes

SMALL: dict[str, Any] = {"frames": [4], "grid": (3, 2), "width": 8, "repeats": 1, "budgets": [0.5]}


def test_every_compressor_is_measured_at_every_budget(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = bench_compress.bench_compress(**SMALL | {"budgets": [0.25, 0.5], "inputs": ["noise"]})
    assert {row["compressor"] for row in rows} - {YARDSTICK} == set(list_compressors())  # for now none needs attention
    for row in rows:
        assert row["tokens_in"] == 24 and row["seconds"] > 0 and row["frames"] == 4
        if row["compressor"] not in (YARDSTICK, "identity"):
            assert row["tokens_out"] == 24 * row["budget"]
        assert row["peak_inputs"] == row["peak_bytes"] / (24 * 8 * 4)
    assert rows[0]["yardsticks"] == 1
    assert "uniform" in capsys.readouterr().out


def test_rows_are_written_with_the_settings_and_drawn(tmp_path: Path) -> None:
    out = tmp_path / "bench"
    rows = bench_compress.bench_compress(
        ["uniform"], **SMALL | {"frames": [2, 4], "inputs": ["scenes", "one"]}, out=str(out)
    )
    told = json.loads((out / "bench.json").read_text())
    assert told["rows"] == rows and told["grid"] == [3, 2] and told["torch"] == torch.__version__
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["bench.json", "bench.png"]


def test_parameters_reach_the_compressor() -> None:
    rows = bench_compress.bench_compress(
        ["st_simdiff"], **SMALL | {"inputs": ["noise"]}, params={"st_simdiff": {"variant": "official"}}
    )
    assert rows[-1]["tokens_out"] == 24  # nothing is alike, so the release keeps everything


def test_ratios_are_of_medians_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 9.0, 2.0, 4.0, 1.0, 3.0, 3.0, 20.0])  # yardstick and uniform: a warm-up, then three turns
    monkeypatch.setattr(bench_compress, "_timed", lambda run, device: next(times))
    rows = bench_compress.bench_compress(["uniform"], **SMALL | {"inputs": ["noise"], "repeats": 3})
    assert [row["seconds"] for row in rows] == [2.0, 4.0] and rows[1]["yardsticks"] == 2.0


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no run"):
        bench_compress.bench_compress(["broken_for_this_test"], **SMALL | {"inputs": ["noise"]}, threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.fixture(autouse=True)
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    build = bench_compress.build

    def with_broken(name: str, *args: Any, **params: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise RuntimeError("no run")

        return fail if name == "broken_for_this_test" else build(name, *args, **params)

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
def test_bad_settings_are_refused_before_anything_is_measured(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_compress, "_measure", lambda *args: pytest.fail("something was measured"))
    with pytest.raises(error, match=message):
        bench_compress.bench_compress(**SMALL | arguments)


def test_the_inputs_are_what_they_are_called() -> None:
    def temporal(kind: str) -> torch.Tensor:
        x = INPUTS[kind](32, 4, 4, 64, torch.Generator().manual_seed(0))
        return bench_compress.yardstick(x)

    assert temporal("one").min() > 0.9 and temporal("noise").abs().max() < 0.7
    scenes = temporal("scenes")
    assert scenes[15].mean() < 0.3 < 0.6 < scenes[:15].mean()  # a cut after 16 frames


def test_peak_bytes_counts_what_is_alive_at_once_and_no_inputs_or_views() -> None:
    x = torch.ones(1000)

    def chain() -> torch.Tensor:
        a = x.view(10, 100)[2:] + 1  # 800 numbers
        b = a * 2  # 1600
        del a
        c = b[:4].clone()  # 800 + 400
        del b
        return c + 1  # 800

    assert peak_bytes(chain, x) == 4 * 1600
    assert peak_bytes(lambda: x.view(-1), x) == 0
    assert peak_bytes(lambda: x.clone()) == 4000
