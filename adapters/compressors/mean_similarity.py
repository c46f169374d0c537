"""Mean similarity: keep the tokens with the largest inner product with the mean token."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.selector import Selector
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.similarity import Frames


class MeanSimilarity(Selector):
    """Keeps the tokens with the largest inner product with the mean token of the video. Training-free.

    These are the scores of VisionSelector (arXiv 2510.16598) with identity matrices for its projections, and the start
    of the trained selectors of framefold.
    """

    name = "mean_similarity"
    keeps = "tokens with the largest inner product with the mean token"
    cost = "two passes over all tokens, and a sort"

    @torch.no_grad()
    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        frames = Frames(video, rescale=True)
        mean = torch.stack([frame.mean(0) for frame in frames]).mean(0)
        return torch.cat([(frame * mean).sum(-1) for frame in frames])  # no matrix product, which autocast changes
