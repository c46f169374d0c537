"""Actions of a user's process with framefold and the Hub, requested by a test through a pipe.

The process has its own environment, because huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is
imported. It is forked from a server that has imported framefold, but not huggingface_hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

import framefold
from framefold.__main__ import main
from framefold.adapters.pretrained import hub_errors
from tests.support.hub.loopback_hub import Hub

_sleep = time.sleep
_naps: list[float] = []
_longest_nap = 0.01


class ClientError(Exception):
    """An error that the process raised.

    Attributes:
        kinds: names of its class and base classes.
        text: its message.
    """

    def __init__(self, kinds: list[str], text: str, trace: str) -> None:
        super().__init__(f"{text}\n{trace}")
        self.kinds, self.text = kinds, text


class Client:
    """A process with its own environment.

    Args:
        hub: the Hub that it uses.
        home: folder of its cache.
        env: further environment variables.
    """

    def __init__(self, hub: Hub, home: Path, **env: str) -> None:
        fixed = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_write"}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, {**fixed, **quiet, **env}), daemon=True)
        self.process.start()

    def __call__(self, action: str, *args: Any, timeout: float = 120, **options: Any) -> Any:
        """Run an action in the process and return its value, or raise its error."""
        self.connection.send((action, args, options))
        if not self.connection.poll(timeout):
            self.kill()
            raise TimeoutError(f"{action} hangs")
        answer = self.connection.recv()
        if "error" in answer:
            raise ClientError(answer["error"], answer["text"], answer["trace"])
        return answer["value"]

    def refuses(self, action: str, *args: Any, kind: str = "HubError", **options: Any) -> str:
        """Run an action that must raise one of framefold's errors; return its message, which must be one line."""
        with pytest.raises(ClientError) as caught:
            self(action, *args, **options)
        assert caught.value.kinds[0] == kind and "FramefoldError" in caught.value.kinds, caught.value
        assert "\n" not in caught.value.text
        return caught.value.text

    def kill(self) -> None:
        os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()


def random_fila(seed: int, **params: Any) -> framefold.Compressor:
    """A fila whose weights depend on the seed."""
    compressor = framefold.build("fila", 0.2, dim=8, grid=[2, 2], **params)
    generator = torch.Generator().manual_seed(seed)
    for parameter in compressor.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
    return compressor


def digest(compressor: framefold.Compressor) -> str:
    values = [value.numpy().tobytes() for _, value in sorted(compressor.state_dict().items())]
    return hashlib.sha256(b"".join([compressor.name.encode(), *values])).hexdigest()[:12]


def load(source: str, revision: str | None = None) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compressor = framefold.load(source, revision=revision)
    messages = [str(warning.message) for warning in caught]
    return {"digest": digest(compressor), "budget": compressor.budget, "warnings": messages}


def push(seed: int | None, repository: str, **options: Any) -> dict[str, Any]:
    compressor = framefold.build("st_simdiff", 0.1) if seed is None else random_fila(seed)
    return {"digest": digest(compressor), "url": compressor.push_to_hub(repository, **options)}


def from_pretrained(cls: str, source: str, **options: Any) -> str:
    from framefold.adapters.core.registry import compressor_class

    return digest(compressor_class(cls).from_pretrained(source, **options))


def cli(*words: str) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def load_peft(host: str, source: str, **options: Any) -> dict[str, Any]:
    from framefold.training.frozen_host.load import load_host

    model = framefold.load_peft(load_host(host).model, source, **options)
    compressor = model.get_base_model().compressor
    return {"digest": digest(compressor.modules_to_save["default"])}


def start_of_training(start: str) -> str:
    """Digest of the compressor with which a training starts."""
    from framefold.training.start import resolve_start

    return digest(resolve_start("fila", 0.1, start=start).compressor)


def slept() -> float:
    """Return for how many seconds the client has wanted to sleep since the last call."""
    seconds = sum(_naps)
    _naps.clear()
    return seconds


def stall_names() -> None:
    """From now on, looking up the name of a host does not end."""
    socket.getaddrinfo = lambda *_, **__: threading.Event().wait()  # type: ignore[assignment]


def setting(token: str | None = "", limit: float | None = None, nap: float = 0.01) -> None:
    """Set the token, the time limit of requests, and the longest time that ``time.sleep`` takes."""
    global _longest_nap
    _longest_nap = nap
    if token is None:
        os.environ.pop("HF_TOKEN", None)
    elif token:
        os.environ["HF_TOKEN"] = token
    if limit is not None:
        hub_errors.TIMEOUT = limit


def _nap(seconds: float) -> None:
    _naps.append(seconds)
    _sleep(min(seconds, _longest_nap))


def serve(connection: Connection, env: dict[str, str]) -> None:
    """Answer requests until the pipe is closed."""
    assert "huggingface_hub" not in sys.modules  # it would not read the environment again
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        del os.environ[name]
    os.environ.update(env)
    os.chdir(env["HF_HOME"])
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    time.sleep = _nap  # the client waits before it retries
    known = (load, push, from_pretrained, start_of_training, cli, load_peft, setting, slept, stall_names)
    actions = {action.__name__: action for action in known}
    while True:
        try:
            name, args, options = connection.recv()
        except EOFError:
            return
        try:
            answer = {"value": actions[name](*args, **options)}
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            answer = {"error": kinds, "text": str(error), "trace": traceback.format_exc()}
        connection.send(answer)
