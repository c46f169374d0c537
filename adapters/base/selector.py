"""Base class of methods that score every token and keep the ones with the highest scores."""

from __future__ import annotations

from torch import Tensor

from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.selection import exact_topk

from .compressor import Compressor


class Selector(Compressor):
    """Keeps the k tokens with the highest scores, unchanged; ties go to the lower index. Implement :meth:`score`."""

    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        """Return (N,) scores of the tokens of a dense video, in fp32 or wider; the highest are kept."""
        raise NotImplementedError(f"{type(self).__name__} must implement score()")

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        return video.keep(exact_topk(self.score(video, query), k))
