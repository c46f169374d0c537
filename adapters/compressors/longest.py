"""Longest: keep the tokens with the largest norm, a control."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.selector import Selector
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.similarity import Frames


class Longest(Selector):
    """Keeps the tokens with the largest norm. Training-free, and a control rather than a method.

    Methods that measure Euclidean distances prefer long tokens. Where this control reaches their accuracy, length alone
    marks the evidence, and their advantage over methods that compare directions says nothing about other encoders.
    """

    name = "longest"
    keeps = "tokens of the largest norm, a control"
    cost = "one norm per token, and a sort"

    @torch.no_grad()
    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        return torch.cat([torch.linalg.vector_norm(frame, dim=-1) for frame in Frames(video, rescale=True)])
