"""A server as a subprocess that ends, with all its children, no later than the process that started it.

Run as a script, it starts a command and waits for the end of its own standard input, which comes when the parent closes
the pipe or dies in any way, or for the time limit. Then it kills the process group of the command.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PAUSE = 0.2


@contextmanager
def guarded(
    command: Sequence[str], log: Path, limit: float, cwd: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for at most ``limit`` seconds; its output goes to ``log``.

    Yields:
        The guard, whose exit status is that of the command.
    """
    words = [sys.executable, __file__, str(limit), *command]
    with log.open("wb") as sink:
        guard = subprocess.Popen(words, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=sink, stderr=subprocess.STDOUT)
    assert guard.stdin is not None
    try:
        yield guard
    finally:
        guard.stdin.close()
        guard.wait(30)


def main(limit: float, command: list[str]) -> int:
    """Run the command; see above."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    try:
        while limit > 0 and process.poll() is None:
            if select.select([0], [], [], PAUSE)[0]:  # nothing is ever written, so this is the end of the pipe
                break
            limit -= PAUSE
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
