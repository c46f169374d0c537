"""Base class of methods that act only inside the language model."""

from __future__ import annotations

from torch import Tensor

from framefold.adapters.core.tokens import Compressed, VideoTokens

from .compressor import Compressor


class InLLMOnly(Compressor):
    """Lets all tokens enter the language model. A subclass sets ``in_llm`` in its constructor."""

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        return video
