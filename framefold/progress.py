"""The progress of every command except ``fit``, which shows Lightning's: a bar on a terminal, otherwise lines.

A file keeps all that a bar redraws, and a bar that waits for its next step says nothing. Where stderr is not a
terminal, a thread therefore writes one line every :data:`LINE_INTERVAL` seconds, in the middle of a long step as well.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

from tqdm import tqdm

LINE_INTERVAL = 30.0  # seconds between two lines, also those of fit

QUIET = "TQDM_DISABLE"  # environment variable that switches all progress off


def progress_bar(
    items: Iterable[Any] | None = None,
    what: str = "",
    *,
    total: int | None = None,
    done: int = 0,
    unit: str = "it",
    leave: bool = True,
) -> Any:
    """Show progress, rate and remaining time on stderr.

    The remaining time is estimated from the mean rate of all steps so far, because steps may take very unequal times.
    If stderr is not a terminal, one line per half minute is written. Of nested bars, the line shows all, and the
    progress of the inner one counts for the outer one.

    Args:
        items: iterable to wrap; None to call ``update()`` by hand, also with fractions of a step.
        what: description shown before the bar.
        total: number of steps, if ``items`` has no length.
        done: number of steps that were completed earlier; they are excluded from the rate.
        unit: name of a step.
        leave: keep the bar on screen after the last step.

    Returns:
        A :class:`TerminalBar` or :class:`LineProgress`: an iterable and a context manager with ``update``, ``reset``,
        ``set_description`` and ``write``.
    """
    if not sys.stderr.isatty():
        return LineProgress(items, what, total=total, done=done, unit=unit, leave=leave)
    options: dict[str, Any] = {"initial": done, "unit": unit, "leave": leave, "smoothing": 0.0, "dynamic_ncols": True}
    return TerminalBar(items, desc=what, total=total, **options)


class TerminalBar(tqdm):
    """A bar of tqdm that shows only complete steps."""

    @property
    def format_dict(self) -> dict[str, Any]:
        """Values that tqdm shows."""
        return {**super().format_dict, "n": int(self.n)}


class LineProgress:
    """Progress as lines, see :func:`progress_bar`.

    Attributes:
        n: number of completed steps, perhaps with a fraction of the current one.
        total: number of all steps; None if it is unknown.
    """

    def __init__(
        self,
        items: Iterable[Any] | None = None,
        what: str = "",
        *,
        total: int | None = None,
        done: float = 0,
        unit: str = "it",
        leave: bool = True,
    ) -> None:
        self.items, self.what, self.unit, self.leave = items, what, unit, leave
        self.total = len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
        self.n = self.first = done
        self.start = time.monotonic()
        if not os.environ.get(QUIET):
            _writer.add(self)

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.items or ():
                yield item
                self.update()

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, steps: float = 1) -> None:
        """Count steps."""
        self.n += steps

    def reset(self, total: int | None = None) -> None:
        """Start again, with another number of steps."""
        self.n, self.first, self.start, self.total = 0, 0, time.monotonic(), total

    def set_description(self, what: str, refresh: bool = True) -> None:
        """Replace the description."""
        self.what = what

    def write(self, text: str, file: Any = None) -> None:
        """Write a line between those of the progress."""
        print(text, file=file or sys.stdout, flush=True)

    def close(self) -> None:
        """Write the last line, if it is to be kept."""
        _writer.remove(self)

    def line(self, inner: str = "", part: float = 0.0) -> str:
        """Return the progress as text.

        Args:
            inner: text of the progress in the current step.
            part: completed part of the current step, in [0, 1].
        """
        seconds, done = time.monotonic() - self.start, self.n + part - self.first
        of = f"/{self.total}" if self.total is not None else ""
        parts = [f"{self.what}: {int(self.n)}{of}"]
        if done > 0:
            parts.append(f"{seconds / done:.3g} s a {self.unit}")
        if done > 0 and self.total is not None and self.n < self.total:
            parts.append(f"{_clock(seconds / done * (self.total - self.n - part))} left")
        else:
            parts.append(f"{_clock(seconds)} so far" if self.total != self.n else f"done in {_clock(seconds)}")
        return ", ".join(parts) + (f" ({inner})" if inner else "")

    @property
    def part(self) -> float:
        """Completed part of all steps."""
        return min(1.0, self.n / self.total) if self.total else 0.0


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class _LineWriter:
    """Writes a line about all open :class:`LineProgress` every half minute, from a thread.

    The interval is counted from the latest line of any of them, so that many short ones are reported, too. The lock is
    held while a line is written and while the process forks, so that no child inherits a stream in the middle of it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: list[LineProgress] = []  # outer ones first
        self.latest: float | None = None  # time of the latest line, or of the first progress
        self.ended = threading.Event()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self._forked
            )

    def _forked(self) -> None:
        """Forget what the parent shows; its thread does not run here."""
        self.open, self.latest = [], None
        self.lock.release()

    def add(self, progress: LineProgress) -> None:
        with self.lock:
            self.latest = time.monotonic() if self.latest is None else self.latest
            self.open.append(progress)
            if len(self.open) == 1:
                self.ended = threading.Event()
                threading.Thread(target=self._run, args=(self.ended,), name="progress", daemon=True).start()

    def remove(self, progress: LineProgress) -> None:
        with self.lock:
            if progress not in self.open:
                return
            self.open.remove(progress)
            if progress.leave:
                self._write(progress.line())
            if not self.open:
                self.ended.set()

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(max(0.0, (self.latest or 0.0) + LINE_INTERVAL - time.monotonic())):
            with self.lock:
                if not ended.is_set() and time.monotonic() - (self.latest or 0.0) >= LINE_INTERVAL:
                    self._write(self._line())

    def _line(self) -> str:
        text, part = "", 0.0
        for progress in reversed(self.open):
            text, part = progress.line(text, part), progress.part
        return text

    def _write(self, text: str) -> None:
        self.latest = time.monotonic()
        with suppress(OSError, ValueError):  # a closed stream
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


_writer = _LineWriter()
