"""Rung 2: methods that give every token a score and keep the best ones."""

from __future__ import annotations

from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import exact_topk

from .compressor import Compressor


class Selector(Compressor):
    """Keeps the k tokens of highest score, unchanged; ties go to the lower index. Implement :meth:`score`."""

    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        """(N,) scores of the tokens of a dense video, in fp32 or wider; higher is kept."""
        raise NotImplementedError(f"{type(self).__name__} must implement score()")

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video.keep(exact_topk(self.score(video, query), k))
