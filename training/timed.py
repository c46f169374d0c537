"""How long a compressor takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..adapters import Compressed, VideoTokens
from .measure import synchronize

Compress = Callable[..., Compressed]


class TimedCompressor:
    """A compressor that notes how long each call took, in milliseconds."""

    def __init__(self, compressor: Compress, device: torch.device) -> None:
        self.compressor, self.device = compressor, device
        self.query_aware = getattr(compressor, "query_aware", False)
        self.needs_attention = getattr(compressor, "needs_attention", False)
        self.milliseconds: list[float] = []

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        synchronize(self.device)
        start = time.perf_counter()
        out = self.compressor(video, query)
        synchronize(self.device)
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        return out
