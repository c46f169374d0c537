"""A framefold command in a forked process, which needs no new Python and may be interrupted or killed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from framefold.__main__ import main
from tests.support.limits import HANG


class ForkedCommand:
    """A running command, in a process group of its own; its output goes to a file.

    Args:
        words: arguments of ``framefold``.
        log: file for stdout and stderr.
        prepare: called in the process before the command, for example to patch a function.
    """

    def __init__(self, words: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> None:
        self.log = log
        self._process = multiprocessing.get_context("fork").Process(target=_run, args=(list(words), log, prepare))
        self._process.start()

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid or 0

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as the condition holds; fail if the command ends before, or does not react."""
        end = time.monotonic() + HANG
        while not condition():
            assert self._process.is_alive() and time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command, SIGKILL to all of its processes."""
        kill = os.killpg if number == signal.SIGKILL else os.kill
        kill(self._process.pid or 0, number)

    def interrupt(self) -> int:
        """Send SIGINT, once more if the command runs on, and return the exit status.

        Python drops an interrupt that it raises in a destructor or a callback, and a user would press Ctrl-C again.
        """
        self.send(signal.SIGINT)
        self._process.join(20)
        if self._process.is_alive():
            self.send(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Return the exit status, as of Popen."""
        self._process.join(HANG)
        if self._process.exitcode is None:
            self.send(signal.SIGKILL)
            self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _run(words: list[str], log: Path, prepare: Callable[[], None]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    gc.callbacks.clear()  # hypothesis's callback, inherited from pytest, would swallow an interrupt that hits it
    with open(log, "w", buffering=1) as output:
        sys.stdout = sys.stderr = output
        prepare()
        sys.exit(main(words))
