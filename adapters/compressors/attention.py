"""Attention: keep the tokens that receive the most, or the least, attention in the vision encoder; two controls."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.selector import Selector
from framefold.adapters.core.tokens import VideoTokens


class Attention(Selector):
    """Keeps the tokens of the whole video that receive the most attention in the vision encoder. Training-free.

    A control for methods that use this attention: a method that is not better than its scores adds nothing to them.
    """

    name = "attention"
    keeps = "tokens that receive the most attention in the vision encoder, a control"
    cost = "a sort of the attention"
    needs_attention = True

    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        attention = video.attention  # never None, see needs_attention
        return attention.to(torch.promote_types(attention.dtype, torch.float32))  # type: ignore[union-attr]
