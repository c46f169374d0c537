"""What a user's process does with framefold and the Hub, ordered line by line by a test: JSON in, JSON out.

A process of its own, since huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import time
import traceback
import warnings
from typing import Any

import torch

import framefold
from framefold.__main__ import main
from framefold.adapters.pretrained import hub_errors

_sleep = time.sleep


def made(seed: int, **params: Any) -> framefold.Compressor:
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
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        compressor = framefold.load(source, revision=revision)
    return {"digest": digest(compressor), "budget": compressor.budget, "warnings": [str(one.message) for one in said]}


def push(seed: int | None, repository: str, **how: Any) -> dict[str, Any]:
    compressor = framefold.build("st_simdiff", 0.1) if seed is None else made(seed)
    return {"digest": digest(compressor), "url": compressor.push_to_hub(repository, **how)}


def from_pretrained(cls: str, source: str, **how: Any) -> str:
    from framefold.adapters.core.registry import get

    return digest(get(cls).from_pretrained(source, **how))


def cli(*words: str) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def load_peft(host: str, source: str, **how: Any) -> dict[str, Any]:
    from framefold.training.frozen_host.load import load_host

    model = framefold.load_peft(load_host(host).model, source, **how)
    compressor = model.get_base_model().compressor
    return {"digest": digest(compressor.modules_to_save["default"])}


def begin(start: str) -> str:
    """What a training goes on from."""
    from framefold.training.start import begin as of_training

    return digest(of_training("fila", 0.1, start=start).compressor)


def setting(token: str | None = "", timeout: float | None = None) -> None:
    if token is None:
        os.environ.pop("HF_TOKEN", None)
    elif token:
        os.environ["HF_TOKEN"] = token
    if timeout is not None:
        hub_errors.TIMEOUT = timeout


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed
    time.sleep = lambda seconds: _sleep(min(seconds, 0.01))  # retries of the client wait for nobody
    actions = {action.__name__: action for action in (load, push, from_pretrained, begin, cli, load_peft, setting)}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"value": actions[order["do"]](*order["args"], **order["how"])}
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            answer = {"error": kinds, "text": str(error), "trace": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    serve()
