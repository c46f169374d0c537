"""A reader of the guides at a desk: a process that runs commands and Python as new processes would, only sooner.

Libraries are imported once and every order runs in a fork. Of framefold nothing stays imported, so that an order sees
the files of the desk as they are then. Orders come as lines of JSON on stdin, answers go out the same way.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

LIBRARIES = ("matplotlib.pyplot", "pytorch_lightning.cli", "scipy.stats", "webdataset", "av", "peft", "deepspeed")
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
MODELS = ("llava_onevision", "siglip", "qwen2")


def warm_up() -> Any:
    """Import what commands need; returns what must not be collected."""
    from framefold.training.frozen_host import torchvision as finder

    path = list(sys.path)
    with suppress(Exception):  # there is none: commands that need it say so
        finder.find_torchvision()
    for name in (*LIBRARIES, *(f"transformers.models.{name}.modeling_{name}" for name in MODELS)):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "framefold"]:
        del sys.modules[name]
    sys.path[:] = path  # a command looks for torchvision itself
    return finder


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Run an order in a fork with a process group of its own, killed as a whole when its time is up."""
    child = os.fork()
    if child == 0:
        os._exit(_child(order))
    status, end = None, time.monotonic() + order["timeout"]
    while status is None and time.monotonic() < end:
        found, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if found else None
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # also what it has left behind
    if status is None:
        os.waitpid(child, 0)
    return {"status": status}


def _child(order: dict[str, Any]) -> int:
    os.setsid()
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    os.environ.update(order["env"])
    try:
        return _do(order["words"])
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for written in (sys.stdout, sys.stderr):
            written.flush()


def _do(words: list[str]) -> int:
    """``framefold VERB ...``, ``python FILE ...`` or ``python -m MODULE ...``."""
    if words[0] == "framefold":
        from framefold.__main__ import main

        sys.argv = words
        return main(words[1:])
    if words[1] == "-m":
        sys.argv = words[2:]
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words[1:]
        runpy.run_path(words[1], run_name="__main__")
    return 0


def serve() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    keep = warm_up()
    for line in sys.stdin:
        answers.write(json.dumps(obey(json.loads(line))) + "\n")
    del keep


if __name__ == "__main__":
    serve()
