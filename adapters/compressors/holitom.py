"""HoliTom: still positions are joined over windows of frames, the rest is selected by attention (arXiv 2505.21334)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.window_merger import WindowMerger
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.density_peaks import (
    Clusters,
    WeightedGroups,
    blended,
    keep_and_cluster,
    keep_only,
    peak_clusters,
)
from framefold.adapters.ops.selection import complement, exact_topk
from framefold.adapters.ops.similarity import rescale_if_extreme
from framefold.adapters.ops.windows import TokenSet, still_tiling
from framefold.adapters.reference.holitom import holitom_as_released, script_threshold
from framefold.errors import ConfigError


class HoliTom(WindowMerger):
    """Joins still positions over windows of frames, and selects the tokens of a frame by attention. Training-free.

    The part of HoliTom before the language model. Of all tilings of the video with windows, dynamic programming finds
    the one that saves most tokens if each position whose similarity with the next frame exceeds ``tau`` throughout a
    window becomes one token. ``exact`` then follows :class:`~framefold.adapters.base.window_merger.WindowMerger`. Of
    the positions of a frame that are not still, the ones with the highest received attention are kept unchanged and the
    others are dropped; with ``attention_share`` below 1, some of the share of a frame are clusters of the others.
    Still tokens are always clustered: those with the highest density-peak scores are centres, and each of the others
    joins the nearest one.

    ``official`` gives the result of the release, see
    :func:`~framefold.adapters.reference.holitom.holitom_as_released`; it fails if ``attention_share`` leaves
    clusters to a frame.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        tau: cosine similarity of a position with the next frame above which it is still; None: 0.65 below a ratio of
            0.15 and 0.8 from there, as in the scripts of the release.
        attention_share: share of a frame's tokens that is selected by attention; at 0 no attention is needed.
        beta: weight of the centre in the feature of a cluster; None: the mean of the cluster.
        neighbours: nearest points that determine the density.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: ``official`` on a video for which the release fails.
    """

    name = "holitom"
    paper = "HoliTom, arXiv 2505.21334"
    keeps = "tokens that receive the most attention, and still positions joined over windows of frames"
    cost = "one cosine similarity per token, and the distances within each set of still positions"
    licence = "Apache-2.0"
    deviations = (
        "one ratio, at which rounding gives the budget, instead of the one derived from the number of saved tokens; "
        "joins only the most similar still positions if these alone meet the budget; attention_share may be below 1, "
        "where the release fails"
    )
    needs_attention = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        tau: float | None = None,
        attention_share: float = 1.0,
        beta: float | None = 0.6,
        neighbours: int = 7,
    ) -> None:
        super().__init__(budget, variant=variant)
        if not (0 <= attention_share <= 1 and (beta is None or 0 <= beta <= 1) and neighbours >= 1):
            raise ConfigError(
                "holitom: attention_share and beta must be between 0 and 1, and neighbours at least 1, got"
                f" {attention_share}, {beta}, {neighbours}"
            )
        self.tau, self.attention_share, self.beta, self.neighbours = tau, attention_share, beta, neighbours
        self.needs_attention = attention_share > 0

    def windows(self, x: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor | None]:
        return still_tiling(x, script_threshold(self.tau, ratio))

    def head_start(self, tokens: TokenSet) -> float:
        return 0.5 if tokens.is_static else 1.0  # as in the release: nearest integer, and rounded up

    def reduce(self, tokens: TokenSet, x: Tensor, video: VideoTokens, count: int) -> Clusters:
        size, device = len(tokens.positions), x.device
        by_attention = 0 if tokens.is_static else round(count * self.attention_share)
        kept = torch.zeros(0, dtype=torch.long, device=device)
        if by_attention and video.attention is not None:
            kept = exact_topk(video.attention.reshape(x.shape[:2])[tokens.first, tokens.positions], by_attention)
            if by_attention == count:
                return keep_only(kept, size)
        others, count = complement(kept, size), count - by_attention
        points = tokens.points(x)[others] if by_attention else tokens.points(x)
        centres, label = peak_clusters(points, count, min(self.neighbours, count))
        return keep_and_cluster(kept, others, blended(centres, label, self.beta))

    def official(self, video: VideoTokens, ratio: float) -> WeightedGroups:
        x = rescale_if_extreme(video.features.reshape(video.grid[0], video.per_frame, -1), max_exponent=33)
        attention = torch.zeros(x.shape[:2]) if video.attention is None else video.attention.reshape(x.shape[:2])
        released = holitom_as_released(
            x, attention, ratio, script_threshold(self.tau, ratio),
            context_share=1 - self.attention_share, beta=self.beta, neighbours=self.neighbours,
        )  # fmt: skip
        return released.groups
