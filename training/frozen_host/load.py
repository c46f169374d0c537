"""Frozen hosts, loaded from a folder or from the cache of the Hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging as hf_logging

from framefold.errors import HostError
from framefold.training.memory.host_weights import HostDtype, HostWeights

from .host import Host, Tinyhost
from .locate import VIDEO_CONFIG, HostFolder, find_host
from .processor import first_line, unsupported
from .processor_host import ProcessorHost


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hide the bar that transformers shows while it loads weights."""
    enabled = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            hf_logging.enable_progress_bar()


def load_host(
    host: str | os.PathLike[str] | HostFolder = "checkpoints/tinyhost",
    revision: str | None = None,
    dtype: HostDtype = "auto",
    frames: int | None = None,
    *,
    vision_chunk: int | None = None,
    weights: HostWeights | None = None,
    device: torch.device | None = None,
) -> Host:
    """Load a host, frozen and in eval mode. Downloads nothing and runs no code from the host's files.

    Args:
        host: folder, Hub id in the local cache, or the result of
            :func:`~framefold.training.frozen_host.locate.find_host`.
        revision: of a host on the Hub.
        dtype: of the weights, see :class:`~framefold.training.memory.host_weights.HostWeights`.
        frames: maximum number of frames of a video that the host encodes, evenly spaced; None for all.
        vision_chunk: number of frames that its vision encoder takes at once; None for all.
        weights: settings of the weights, instead of ``dtype``.
        device: that the caller will move the host to; a host in 4 bits is loaded there.

    Raises:
        HostError: The host is missing, incomplete, or of no supported family.
        ConfigError, MissingExtraError: The settings of the weights cannot be used here.
    """
    source = host if isinstance(host, HostFolder) else find_host(host, revision)
    if (problem := unsupported(source)) is not None:
        raise HostError(problem)
    arguments = (weights or HostWeights(dtype)).arguments(source.kind, device)
    try:
        video = json.loads((source.folder / VIDEO_CONFIG).read_text()) if source.is_tinyhost else None
        with _no_progress_bar():
            model = AutoModelForImageTextToText.from_pretrained(source.folder, local_files_only=True, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        text = f"the host in {source.folder} is damaged or incomplete: {first_line(error)}"
        raise HostError(f"{text}; {source.remedy}") from error
    model.eval().requires_grad_(False)
    if video is None:
        return ProcessorHost(model, tokenizer, source=source, frames=frames, vision_chunk=vision_chunk)
    mean, std = tuple(video["image_mean"]), tuple(video["image_std"])
    size = video["size"]["height"]
    settings: dict[str, Any] = {"source": source, "frames": frames, "vision_chunk": vision_chunk}
    return Tinyhost(model, tokenizer, size, mean, std, **settings)


def load_tinyhost(path: str | os.PathLike[str]) -> Tinyhost:
    """Load a host that 'framefold tinyhost train' wrote.

    Raises:
        HostError: As :func:`load_host`, or it is another host.
    """
    host = load_host(path)
    if not isinstance(host, Tinyhost):
        raise HostError(f"{path} is not a host of 'framefold tinyhost train', which is required here")
    return host


def load_model(host: str | os.PathLike[str] | HostFolder, dtype: Any, device: torch.device) -> Any:
    """Load the model of a host, frozen and in eval mode. Downloads nothing.

    Args:
        host: see :func:`load_host`.
        dtype: of the weights, see :class:`~framefold.training.memory.host_weights.HostWeights`.
        device: of the model.

    Raises:
        HostError: The weights are missing or do not load.
    """
    source = host if isinstance(host, HostFolder) else find_host(host)
    arguments = HostWeights(dtype).arguments(source.kind, device)
    try:
        with _no_progress_bar():
            model: Any = AutoModelForImageTextToText.from_pretrained(source.folder, local_files_only=True, **arguments)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        text = f"the weights of {source.name} do not load: {first_line(error)}"
        raise HostError(f"{text}; {source.remedy}") from error
    return model.to(device).eval().requires_grad_(False)
