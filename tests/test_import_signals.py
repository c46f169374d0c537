"""Signals while a verb is imported end the process with one line, whatever the imported packages do with them."""

from __future__ import annotations

import importlib
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from framefold import __main__ as command_line
from tests.support.forked_command import ForkedCommand

FIT = ["fit", "--config", "compressor/fila", "--trainer.max_steps", "1"]


@pytest.mark.parametrize(
    ("words", "number", "line"),
    [
        (FIT, signal.SIGTERM, "fit: SIGTERM: the training has not started, and there is no new checkpoint\n"),
        (FIT, signal.SIGINT, "--resume auto continues from the latest checkpoint, if there is one\n"),
        (["ablate", "--out", "unused"], signal.SIGINT, "the same command continues where it stopped\n"),
    ],
)
def test_a_signal_during_an_import_ends_the_process(words: list[str], number: int, line: str, tmp_path: Path) -> None:
    """Torch and numpy swallow the exception, and end in a RecursionError about something else."""
    real = importlib.import_module

    def interrupted(name: str) -> Any:
        with suppress(BaseException):
            os.kill(os.getpid(), number)
        return real(name)

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        command_line.importlib.import_module = interrupted  # type: ignore[attr-defined]

    command = ForkedCommand(words, tmp_path / "log", prepare)
    assert command.wait() == 128 + number
    log = (tmp_path / "log").read_text()
    assert log.endswith(line) and log.count("\n") == 1, log
