"""Signals while the modules of a verb are imported, which takes seconds.

Packages such as torch and numpy catch the exception of an interrupted import, and later fail for another reason.
Nothing has been started or written at that time, so the process can end at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

# Verbs that reuse what an interrupted call has finished.
CONTINUED = {"shards synth", "shards splice", "shards features", "tinyhost train", "ablate", "eval", "demo"}


def interrupted(args: Sequence[str]) -> str:
    """Return the line about Ctrl-C, with the way to continue the verb that `args` begin with."""
    verbs = {" ".join(args[:words]) for words in (1, 2)}
    how = "; the same command continues where it stopped" if verbs & CONTINUED else ""
    if "fit" in verbs:
        how = "; the same command with --resume auto continues from the latest checkpoint, if there is one"
    return f"framefold: error: interrupted; complete files are kept, incomplete ones were removed{how}"


@contextmanager
def end_at_once(args: Sequence[str]) -> Iterator[None]:
    """End the process with one line on Ctrl-C, and a training on SIGTERM as well, instead of raising an exception.

    Signals that this process handles or ignores already are left alone, and so are threads other than the main one.

    Args:
        args: verb and options.
    """
    lines = {signal.SIGINT: interrupted(args)}
    if args[0] == "fit":
        lines[signal.SIGTERM] = "fit: SIGTERM: the training has not started, and there is no new checkpoint"

    def end(number: int, frame: FrameType | None) -> NoReturn:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            with suppress(RuntimeError, OSError, ValueError):  # the stream is in use or closed
                print(lines[signal.Signals(number)], file=sys.stderr, flush=True)
        os._exit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in lines if is_main}
    before = {number: handler for number, handler in before.items() if handler in defaults}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
