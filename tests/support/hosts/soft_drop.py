"""Two compressors that must have the same effect: one drops tokens, the other biases the attention to them."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters import Compressed, Compressor, VideoTokens


class Unregistered(Compressor):
    """Has a name, which is not registered."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.name = type(self).__name__  # type: ignore[misc]


class HardDrop(Unregistered):
    """Keeps every third token."""

    def entering(self, k: int, n: int, per_frame: int = 1) -> int:
        return len(range(0, n, 3))

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        return video.keep(torch.arange(0, len(video), 3))


class SoftDrop(Unregistered):
    """Keeps all tokens, but nothing attends to those that HardDrop drops."""

    biases_keys = True
    size = -1e4  # of the bias

    def entering(self, k: int, n: int, per_frame: int = 1) -> int:
        return n

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        dropped = torch.arange(len(video)) % 3 != 0
        return Compressed(video, key_bias=torch.where(dropped, self.size, 0.0))
