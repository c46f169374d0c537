"""The process that runs lmms-eval: found, started, supervised, and ended together with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from framefold.errors import MissingExtraError
from framefold.messages import install_command

PAUSE = 0.2  # seconds between two updates of the progress

MODULE = "framefold.evaluation.lmms.worker"


def find_lmms_eval() -> Path | None:
    """Return the folder that ``make lmms`` fills, or None if lmms-eval is installed in this environment.

    Raises:
        MissingExtraError: it is in neither.
    """
    spec = find_spec("lmms_eval")
    if spec is not None and spec.origin is not None:  # any folder of that name is a package without an origin
        return None
    folder = Path(sys.prefix) / "lmms-eval"
    if (folder / "lmms_eval" / "__init__.py").is_file():
        return folder
    raise MissingExtraError(
        f"lmms-eval is not installed: 'make lmms' in a checkout installs it into {folder}; with a CUDA build of torch,"
        f" {install_command('lmms')} works as well"
    )


def supervise(job: Path, log: Path, on_wait: Callable[[], None]) -> int:
    """Run lmms-eval's process to its end.

    If this function ends early, for whatever reason, that process and all its children are killed.

    Args:
        job: file for :mod:`framefold.evaluation.lmms.worker`.
        log: file that the output of the process is appended to.
        on_wait: called repeatedly while the process runs.

    Returns:
        Exit status of the process; negative for the signal that killed it.
    """
    env = {"TOKENIZERS_PARALLELISM": "false", **os.environ}
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, str(job)],  # -P: folders of the user must not hide packages
            stdin=subprocess.PIPE,  # its end tells the process that its parent has died, see follow_parent
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        while True:
            try:
                return process.wait(timeout=PAUSE)
            except subprocess.TimeoutExpired:
                on_wait()
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def follow_parent() -> None:
    """Kill this process group when the parent dies in any way; called in the process that runs lmms-eval."""

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock would block the interpreter at exit
            pass
        os.killpg(0, signal.SIGKILL)

    if os.getpgrp() == os.getpid():
        Thread(target=wait, daemon=True).start()
