"""Attention, lowest first: a control for methods that trust the attention of the vision encoder."""

from __future__ import annotations

from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens

from .attention import Attention


class AttentionLow(Attention):
    """Keeps the tokens of the whole video that receive the least attention in the vision encoder. Training-free.

    If it is better than ``attention``, as with the embedded host, the attention of the encoder points away from the
    evidence, and results of methods that use it say nothing about them with other encoders.
    """

    name = "attention_low"
    keeps = "tokens that receive the least attention in the vision encoder, a control"

    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        return -super().score(video, query)
