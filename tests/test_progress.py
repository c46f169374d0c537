"""Progress: a bar on a terminal, otherwise one line per half minute, in the middle of long steps as well."""

from __future__ import annotations

import os
import re
import threading
from types import SimpleNamespace

import pytest

from framefold import progress
from framefold.progress import LineProgress, TerminalBar, progress_bar


class Clock:
    """A clock that tests set, in place of ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock of our own, and a writer whose thread never runs."""
    clock, real = Clock(), progress._LineWriter()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(
        progress,
        "threading",
        SimpleNamespace(Event=threading.Event, Thread=lambda **_: SimpleNamespace(start=lambda: None)),
    )
    monkeypatch.setattr(progress, "_writer", real)
    monkeypatch.delenv(progress.QUIET, raising=False)
    return clock


def line() -> str:
    return progress._writer._line()


def test_a_terminal_gets_a_bar_whose_rate_is_the_mean_of_the_steps_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(TerminalBar, "monitor_interval", 0)
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True, write=lambda text: None, flush=lambda: None))
    bar = progress_bar(what="results", total=10, done=4, unit="result")
    assert isinstance(bar, TerminalBar)
    bar._time, bar.start_t, bar.last_print_t = (lambda: now), 0.0, 0.0
    for seconds, steps in ((1, 1), (1, 0.5), (28, 1.5)):  # unequal steps, and a fraction of one
        now += seconds
        bar.update(steps)
    text = str(bar)
    bar.close()
    assert "7/10 [00:30<00:30" in text and "10.00s/result" in text, text


def test_lines_name_rate_and_remaining_time_of_this_run(clock: Clock) -> None:
    bar = progress_bar(what="results", total=10, done=4, unit="result")
    assert isinstance(bar, LineProgress)
    clock.now = 30
    assert line() == "results: 4/10, 0:00:30 so far"
    bar.update(0.5)
    assert line() == "results: 4/10, 60 s a result, 0:05:30 left"
    bar.update(0.5)
    assert line() == "results: 5/10, 30 s a result, 0:02:30 left"
    bar.reset(None)
    bar.set_description("clips")
    bar.update(3)
    clock.now = 60
    assert line() == "clips: 3, 10 s a result, 0:00:30 so far"
    bar.close()


def test_a_line_shows_nested_progress_and_counts_it_for_the_outer_one(clock: Clock) -> None:
    with progress_bar(what="shards", total=4, unit="shard") as outer:
        outer.update()
        inner = progress_bar(what="0001.tar", total=10, unit="video", leave=False)
        inner.update(5)
        clock.now = 90
        assert line() == "shards: 1/4, 60 s a shard, 0:02:30 left (0001.tar: 5/10, 18 s a video, 0:01:30 left)"
        inner.close()
        assert line() == "shards: 1/4, 90 s a shard, 0:04:30 left"


def test_the_last_line_stays_unless_it_is_not_wanted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for leave, text in ((True, "videos: 3/3, 2 s a video, done in 0:00:06\n"), (False, "")):
        for _ in progress_bar(range(3), "videos", unit="video", leave=leave):
            clock.now += 2
        assert capsys.readouterr().err == text


def test_a_line_is_written_every_interval_also_within_a_step_and_across_short_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.05)
    monkeypatch.setattr(progress, "_writer", progress._LineWriter())
    written = threading.Semaphore(0)
    write = progress._LineWriter._write
    monkeypatch.setattr(progress._LineWriter, "_write", lambda self, text: (write(self, text), written.release()))
    for number in range(3):
        with progress_bar(what=f"part {number}", total=2, unit="step", leave=False):
            assert written.acquire(timeout=60) and written.acquire(timeout=60)  # without any update
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 6 and all(re.fullmatch(r"part \d: 0/2, 0:00:0\d so far", one) for one in lines), lines


def test_a_forked_child_writes_no_lines_of_its_parent_and_does_not_hang(clock: Clock) -> None:
    with progress_bar(what="parent", total=2):
        child = os.fork()
        if child == 0:
            ok = not progress._writer.open
            with progress_bar(what="child", total=1, leave=False):
                pass
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_the_variable_of_tqdm_switches_lines_off(clock: Clock, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(progress.QUIET, "1")
    for _ in progress_bar(range(3), "videos"):
        clock.now += 100
    assert capsys.readouterr().err == ""
