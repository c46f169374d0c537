"""A server that runs commands and Python files in forks of a process that has already imported the libraries.

Each request behaves like a new process but starts within milliseconds. No module of framefold stays imported in the
server, so a request sees the source files as they are at that moment. Requests are read from stdin and answers are
written to stdout, one JSON object per line.
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
PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent ends
MODELS = ("llava_onevision", "siglip", "qwen2")


def preload() -> Any:
    """Import the libraries that commands need; returns an object that must not be collected."""
    from framefold.training.frozen_host import torchvision as finder

    path = list(sys.path)
    with suppress(Exception):  # without torchvision, the commands that need it report it
        finder.find_torchvision()
    for name in (*LIBRARIES, *(f"transformers.models.{name}.modeling_{name}" for name in MODELS)):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "framefold"]:
        del sys.modules[name]
    sys.path[:] = path  # each command looks for torchvision itself
    return finder


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run a request in a fork with its own process group, which is killed when the time is up."""
    child = os.fork()
    if child == 0:
        os._exit(_child(request))
    status, deadline = None, time.monotonic() + request["timeout"]
    while status is None and time.monotonic() < deadline:
        found, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if found else None
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # including processes that the command left running
    if status is None:
        os.waitpid(child, 0)
    return {"status": status}


def _child(request: dict[str, Any]) -> int:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    try:
        return _execute(request["words"])
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


def _execute(words: list[str]) -> int:
    """Run ``framefold VERB ...``, ``python FILE ...`` or ``python -m MODULE ...``."""
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
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    keep = preload()
    for line in sys.stdin:
        answers.write(json.dumps(run(json.loads(line))) + "\n")
    del keep


if __name__ == "__main__":
    serve()
