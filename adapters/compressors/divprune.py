"""DivPrune: keep a subset whose least distance between tokens is large (arXiv 2503.02175)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.max_min import PointSet, farthest_points, most_isolated
from framefold.adapters.ops.selection import first_argmax
from framefold.adapters.ops.similarity import Frames
from framefold.adapters.reference.divprune import divprune_order
from framefold.errors import ConfigError


class DivPrune(Compressor):
    """Keeps tokens of the whole video whose least distance from each other is large, chosen greedily. Training-free.

    The first token is the one whose nearest other token is farthest. Then, repeatedly, the token whose least distance
    to those chosen is largest. Kept tokens are not changed.

    ``exact`` keeps k tokens for any k: a chosen token is never chosen again. Once only copies of chosen tokens are
    left, the first ones follow. Ties go to the lower index. Distances are computed in fp32 from differences to the
    mean, so that small ones are not lost; those of copies are exactly 0.

    ``official`` makes as many choices, but, as in the release, may choose a token again once only copies are left, so
    that fewer tokens remain.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        norm: "unit": distance 1 - cosine (the paper); "raw": Euclidean distance, which prefers long tokens.
        start: first token: "isolated" (the paper) or "longest", the token with the largest norm, which saves the search
            for the most isolated one.

    Raises:
        ConfigError: an unknown value, or ``official`` with other values than those of the paper.
    """

    name = "divprune"
    paper = "DivPrune, arXiv 2503.02175"
    keeps = "tokens far from each other, over the whole video"
    cost = "distances of all tokens to each kept one, less those that bounds exclude: up to k N D"
    growth = "quadratic"
    licence = "CC-BY-NC-4.0"
    deviations = "chooses no token twice and keeps at least one; equal to the release if no two tokens are equal"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        norm: Literal["unit", "raw"] = "unit",
        start: Literal["isolated", "longest"] = "isolated",
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official") or norm not in ("unit", "raw") or start not in ("isolated", "longest"):
            raise ConfigError(f"divprune: unknown value: {variant=}, {norm=}, {start=}")
        if variant == "official" and (norm, start) != ("unit", "isolated"):
            raise ConfigError(
                f"divprune: variant='official' has norm='unit' and start='isolated', got {norm=}, {start=}"
            )
        self.variant, self.norm, self.start = variant, norm, start
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video.keep(self.select(video, k))

    @torch.no_grad()
    def select(self, video: VideoTokens, k: int) -> Tensor:
        """Return the rows to keep, ascending."""
        with torch.autocast(video.features.device.type, enabled=False):
            if self.variant == "official":
                return divprune_order(video.features, k, video.per_frame).unique()
            if k == len(video):
                return video.index
            points = PointSet.prepare(video.features, "cosine" if self.norm == "unit" else "euclid")
            first = most_isolated(points, video.per_frame) if self.start == "isolated" else longest_token(video)
            return farthest_points(points, k, first).sort().values


def longest_token(video: VideoTokens) -> int:
    """Return the row of the token with the largest norm; ties go to the lower index."""
    length = torch.cat([torch.linalg.vector_norm(frame, dim=-1) for frame in Frames(video, rescale=True)])
    return int(first_argmax(length))
