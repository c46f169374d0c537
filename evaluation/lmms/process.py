"""The process of its own that lmms-eval runs in: found, started, followed, and gone when we are."""

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

PAUSE = 0.2  # seconds between two looks at how far it is

MODULE = "framefold.evaluation.lmms.worker"


def find_lmms_eval() -> Path | None:
    """The folder of ``make lmms``, None where lmms-eval is installed in this environment.

    Raises:
        MissingExtraError: it is in neither.
    """
    spec = find_spec("lmms_eval")
    if spec is not None and spec.origin is not None:  # without: any folder of that name
        return None
    folder = Path(sys.prefix) / "lmms-eval"
    if (folder / "lmms_eval" / "__init__.py").is_file():
        return folder
    raise MissingExtraError(
        f"lmms-eval is not installed: 'make lmms' in a checkout puts it into {folder}; where torch is built for CUDA,"
        " pip install 'framefold[lmms]' does too"
    )


def supervise(job: Path, log: Path, look: Callable[[], None]) -> int:
    """Run lmms-eval's process to its end.

    Whatever ends this function also ends that process and all that it started, at once.

    Args:
        job: file for :mod:`framefold.evaluation.lmms.worker`. log: what it prints is appended to.
        look: called every now and then meanwhile.

    Returns:
        Its exit status, negative for the signal that killed it.
    """
    env = {"TOKENIZERS_PARALLELISM": "false", **os.environ}
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, str(job)],  # -P: no folder of the user's hides a package
            stdin=subprocess.PIPE,  # its end tells the process that this one is gone, see follow_parent
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
                look()
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def follow_parent() -> None:
    """In that process: be killed, with all that it started, when the parent dies in whatever way."""

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would hinder the interpreter at its end
            pass
        os.killpg(0, signal.SIGKILL)

    if os.getpgrp() == os.getpid():
        Thread(target=wait, daemon=True).start()
