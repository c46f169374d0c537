"""Hosts on disk: loaded frozen from a folder or from the cache of the Hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging as hf_logging

from framefold.adapters.hosts.base.family import list_families
from framefold.errors import HostError

from .host import EmbeddedHost, Host
from .locate import FRAMES, FoundHost, find_host
from .processor import first_line
from .processor_host import ProcessorHost

Precision = Literal["auto", "float32", "bfloat16"]


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A bar for 3 MB of weights would stand in front of what a user waits for."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def load_host(
    host: str | os.PathLike[str] | FoundHost = "checkpoints/tinyhost",
    revision: str | None = None,
    dtype: Precision = "auto",
    frames: int | None = None,
) -> Host:
    """Load a host, frozen and in eval mode. Nothing is downloaded and no code out of its files is run.

    Args:
        host: folder, id of a host in the cache of the Hub, or a host that has been found. revision: of an id.
        dtype: of the weights; "auto" is what they were saved in.
        frames: most frames of a video that it is shown, taken evenly; None: all.

    Raises:
        HostError: it is not there, not whole, or of no family that a compressor can be put into.
    """
    found = host if isinstance(host, FoundHost) else find_host(host, revision)
    if found.kind not in list_families():
        raise HostError(f"{found.name} holds a {found.kind!r} model; hosts are {', '.join(list_families())}")
    try:
        video = json.loads((found.folder / FRAMES).read_text()) if found.is_embedded else None
        with _no_progress_bar():
            model = AutoModelForImageTextToText.from_pretrained(found.folder, dtype=dtype, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        again = "make it again with 'framefold tinyhost train'" if found.is_embedded else "download it again"
        raise HostError(f"the host in {found.folder} is not whole ({error}); {again}") from error
    model.eval().requires_grad_(False)
    if video is None:
        return ProcessorHost(model, tokenizer, found=found, frames=frames)
    mean, std = tuple(video["image_mean"]), tuple(video["image_std"])
    return EmbeddedHost(model, tokenizer, video["size"]["height"], mean, std, found=found, frames=frames)


def load_embedded(path: str | os.PathLike[str]) -> EmbeddedHost:
    """As :func:`load_host`, for what only hosts of 'framefold tinyhost train' can be used for.

    Raises:
        HostError: also another host.
    """
    host = load_host(path)
    if not isinstance(host, EmbeddedHost):
        raise HostError(f"{path} is no host of 'framefold tinyhost train', which this is for")
    return host


def load_model(host: str, dtype: str, device: torch.device) -> Any:
    """The host's model, frozen and in eval mode.

    Raises:
        HostError: weights that are not there or do not fit.
    """
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(host, dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise HostError(f"the weights of {host} do not load: {first_line(error)}") from error
    return model.to(device).eval().requires_grad_(False)
