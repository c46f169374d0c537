"""FrameFusion's merging before the language model: similar tokens at the same place form runs (arXiv 2501.01986)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.merger import Merger
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.links import link_groups, tree_groups
from framefold.adapters.ops.partition import split_cells
from framefold.adapters.ops.segments import segment_mean, segment_sum
from framefold.adapters.ops.similarity import rescale_if_extreme, temporal_similarities
from framefold.adapters.reference.framefusion import merge_parents
from framefold.adapters.reference.st_simdiff import drop_ratio
from framefold.errors import ConfigError


class FrameFusion(Merger):
    """Merges runs of similar tokens at the same place over time, most similar neighbours first. Training-free.

    The paper merges in the first layers of the language model and then prunes by attention; this is its merging step on
    the tokens before the language model, which needs neither attention nor the question.

    ``exact``: of all tokens behind frame 0, the N - k that are most similar (by cosine) to the token at the same place
    in the previous frame join the run of that token. A run gives one token, the mean of its members, each counted once,
    anchored at its middle member. Each of these N - k steps removes one token, so there are k tokens for any k >= P. If
    k < P, each place is one run over the whole video, and the places are merged into k near-square rectangles. Ties go
    to the lower index.

    ``official`` is the first merging step of the release, with the budget r as its cost. All tokens with a similarity
    of at least ``tau`` join; if these are more than needed, only the trunc((1 - r) N) most similar ones. So more
    tokens remain if the video changes much, and the release merges on in further layers. Tokens are anchored at the
    first member of their run.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        tau: cosine similarity from which ``official`` merges tokens; the release sets it for each host.

    Raises:
        ConfigError: an unknown variant, or a tau outside of [-1, 1].
    """

    name = "framefusion"
    paper = "FrameFusion, arXiv 2501.01986"
    keeps = "means of runs of similar tokens at the same place"
    cost = "one cosine similarity per token, a sort, and one mean"
    licence = "Apache-2.0"
    deviations = (
        "merges as many tokens as the budget demands instead of those above a threshold, over the whole video if the "
        "budget is smaller than a frame; anchors a run at its middle instead of its first token"
    )

    def __init__(
        self, budget: Budget = 0.25, *, variant: Literal["exact", "official"] = "exact", tau: float = 0.6
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"framefusion: variant must be 'exact' or 'official', got {variant!r}")
        if not -1 <= tau <= 1:
            raise ConfigError(f"framefusion: tau must be a cosine similarity in [-1, 1], got {tau}")
        self.variant, self.tau = variant, tau
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return super().compress(video, k, query) if self.exact_budget else self._merge_as_released(video, k)

    @torch.no_grad()
    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        (frames, height, width), cells = video.grid, video.per_frame
        if k < cells:
            return split_cells(height, width, k, video.features.device).repeat(frames)
        rows = torch.arange(len(video), device=video.features.device)
        similarity = torch.zeros(frames, cells, device=rows.device)
        similarity[1:] = temporal_similarities(rescale_if_extreme(video.features.view(frames, cells, -1)))
        return link_groups(torch.where(rows < cells, -1, rows - cells), similarity.view(-1), len(video) - k)

    def _merge_as_released(self, video: VideoTokens, k: int) -> VideoTokens:
        x = rescale_if_extreme(video.features)
        need = drop_ratio((), self.budget_ratio(k, len(video)))
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            parent, _, _ = merge_parents(x, video.index % video.per_frame, need, self.tau)
            groups, first = tree_groups(parent), (parent < 0).nonzero()[:, 0]
        return replace(
            video,
            features=segment_mean(video.features, video.size, groups, len(first)),
            index=video.index[first],
            size=segment_sum(video.size, groups, len(first)),
            assign=groups,
        )
