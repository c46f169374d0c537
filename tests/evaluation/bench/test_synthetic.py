"""``framefold bench synth``: order of the videos, units, and settings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from framefold.__main__ import main
from framefold.errors import DataError
from framefold.evaluation.bench import synthetic as module
from framefold.evaluation.bench.synthetic import bench_synth
from framefold.evaluation.metrics import timing


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Generated videos (difficulty, frames, index); number i takes i + 1 ms, half of it on the CPU."""
    made: list[tuple[str, int, int]] = []
    clock = {"wall": 0.0}

    def generate(index: int, *, seed: int, split: str, frames: int, difficulty: str) -> SimpleNamespace:
        made.append((difficulty, frames, index))
        clock["wall"] += 0.001 * (index + 1)
        return SimpleNamespace(frames=np.zeros((frames, 100, 100, 1), np.uint8))

    monkeypatch.setattr(module, "generate", generate)
    fake = SimpleNamespace(perf_counter=lambda: clock["wall"], process_time=lambda: clock["wall"] / 2)
    monkeypatch.setattr(timing, "time", fake)
    return made


def test_settings_alternate_and_each_generates_every_video_once(calls: list) -> None:
    bench_synth(frames=[16, 32], videos=6, difficulty=["easy", "hard"])
    settings = {(preset, frames) for preset in ("easy", "hard") for frames in (16, 32)}
    rounds = [calls[at : at + 4] for at in range(4, len(calls), 4)]  # the first four are a warm-up
    assert len(rounds) == 6
    for index, turn in enumerate(rounds):
        assert {call[:2] for call in turn} == settings and {call[2] for call in turn} == {index}
    assert len({turn[0][:2] for turn in rounds}) == 4  # none is always first


def test_numbers_are_milliseconds_per_video_and_megabytes_per_second(calls: list, capsys) -> None:
    result = bench_synth(frames=[50], videos=21, difficulty=["easy"])
    assert list(result) == ["easy@50"]
    assert result["easy@50"] == pytest.approx(
        {
            "wall_median_ms": 11.0,
            "wall_p95_ms": 20.0,
            "cpu_median_ms": 5.5,
            "cpu_p95_ms": 10.0,
            "mb_per_s": 0.5 / 0.0055,  # 50 frames of 10 kB in 5.5 ms
        }
    )
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row == ["easy@50", "11.0", "20.0", "5.5", "10.0", "90.9"]


def test_repeated_setting_is_measured_once(calls: list) -> None:
    assert list(bench_synth(frames=[16, 16], videos=1, difficulty=["easy", "easy"])) == ["easy@16"]
    assert len(calls) == 2


@pytest.mark.parametrize("wrong", [{"videos": 0}, {"frames": []}, {"difficulty": []}])
def test_nothing_to_measure_is_an_error(wrong: dict, calls: list) -> None:
    with pytest.raises(DataError, match="at least one"):
        bench_synth(**wrong)
    assert not calls


@pytest.mark.parametrize("wrong", [{"difficulty": ["easy", "none"]}, {"frames": [64, 3]}, {"seed": -1}])
def test_impossible_setting_is_an_error_before_any_measurement(wrong: dict, monkeypatch) -> None:
    made = []
    real = module.generate
    monkeypatch.setattr(module, "generate", lambda index, **how: (made.append(index), real(index, **how))[1])
    with pytest.raises(DataError):
        bench_synth(**{"videos": 3} | wrong)
    assert len(made) <= 2 and not any(made)


def test_command_prints_one_row_per_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "synth", "--videos", "2", "--frames", "16", "20"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["easy@16", "easy@20", "hard@16", "hard@20"]
    assert all(float(value) > 0 for row in rows for value in row[1:])
