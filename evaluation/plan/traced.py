"""A compressor that runs on tensors without values: itself, or a stand-in where it reads values to decide."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.tokens import VideoTokens
from framefold.training.frozen_host.host import Host

from .no_values import NoValues
from .workload import Workload

MOST = 5000  # operations of a method without training; some select tokens one by one


class _FirstTokens(Compressor):
    """Keeps the first tokens."""

    def __init__(self, of: Compressor) -> None:
        super().__init__(of.budget)
        self.name = of.name  # type: ignore[misc]

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video.keep(torch.arange(k))


def traced(compressor: Compressor, host: Host, work: Workload, values: NoValues) -> tuple[Compressor, list[str]]:
    """Return the compressor, or a stand-in that keeps as many tokens, and notes about what is then left out.

    Args:
        compressor: without values.
        host: without values.
        work: what the step works on.
        values: the mode of both.
    """
    if any(parameter.requires_grad for parameter in compressor.parameters()):
        return compressor, []
    values.most = values.operations + MOST
    try:
        with values, torch.no_grad():
            _call(compressor, host, work, values)
    except Exception:  # code that reads values may fail in any way
        note = f"{compressor.name} decides by values, which do not exist here: its own memory and time are left out"
        return _FirstTokens(compressor), [note]
    finally:
        values.most = None
    return compressor, []


def _call(compressor: Compressor, host: Host, work: Workload, values: NoValues) -> None:
    """Compress a short video without content."""
    video = VideoTokens.from_grid(
        values.empty(8, 16, 16, host.width, dtype=host.model.dtype),
        times=torch.arange(8.0),
        attention=values.empty(8, 16, 16, dtype=torch.float32),
    )
    question = values.empty(work.question_tokens, host.width, dtype=host.model.dtype)
    compressor(video, question if compressor.needs_query else None)
