"""The stopwatch measures its block, laps and processor time, and waits for a GPU."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from framefold.evaluation.metrics import timing
from framefold.evaluation.metrics.timing import Stopwatch, TimedCompressor


class FakeClock:
    """Stands in for the module ``time``; every reading takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now

    def process_time(self) -> float:
        return self.now / 4


def test_stopwatch_measures_wall_time_processor_time_and_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "time", FakeClock())
    with Stopwatch() as watch:
        watch.lap()
        watch.lap()
    assert (watch.seconds, watch.cpu_seconds, watch.laps) == (3.0, 1.0, [1.0, 2.0])
    with watch:
        pass
    assert (watch.seconds, watch.laps) == (1.0, []), "a stopwatch can be used again"


def test_stopwatch_measures_real_time() -> None:
    with Stopwatch() as watch:
        time.sleep(0.05)
    assert watch.seconds >= 0.05 > watch.cpu_seconds


def test_stopwatch_waits_for_a_gpu_before_and_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    clock = SimpleNamespace(
        perf_counter=lambda: events.append("clock") or 0.0,  # type: ignore[func-returns-value]
        process_time=lambda: 0.0,
    )
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(f"wait {device}"))
    with Stopwatch(torch.device("cuda", 0)):
        events.append("block")
    assert events == ["wait cuda:0", "clock", "block", "wait cuda:0", "clock"]
    events.clear()
    with Stopwatch(torch.device("cpu")):
        pass
    assert events == ["clock", "clock"]


def test_timed_compressor_records_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "time", FakeClock())
    compressor = SimpleNamespace(query_aware=True)
    timed = TimedCompressor(lambda video, query: (video, query), torch.device("cpu"))  # type: ignore[arg-type,return-value]
    assert timed("video", "query") == ("video", "query")  # type: ignore[arg-type]
    timed("video")  # type: ignore[arg-type]
    assert timed.milliseconds == [1000.0, 1000.0] and not timed.query_aware
    assert TimedCompressor(compressor, torch.device("cpu")).query_aware  # type: ignore[arg-type]


def test_timing_imports_no_torch() -> None:
    code = "import sys, framefold.evaluation.metrics.timing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
