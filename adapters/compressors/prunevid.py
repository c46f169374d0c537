"""PruneVid: still positions are joined over windows of similar frames, the rest is clustered (arXiv 2412.16117)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.window_merger import WindowMerger
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.density_peaks import Clusters, WeightedGroups, blended, peak_clusters
from framefold.adapters.ops.similarity import rescale_if_extreme
from framefold.adapters.ops.windows import TokenSet
from framefold.adapters.reference.prunevid import alike_positions, prunevid_as_released, refine_runs, run_windows
from framefold.errors import ConfigError


class PruneVid(WindowMerger):
    """Joins still positions over windows of similar frames, and clusters the tokens of each frame. Training-free.

    The part of PruneVid before the language model. Frames are clustered by their means; the longest runs of frames of a
    cluster become windows, and other frames join their neighbours. A position is still if the mean cosine similarity of
    all pairs of frames of its window exceeds ``tau``. ``exact`` then follows
    :class:`~framefold.adapters.base.window_merger.WindowMerger`: each set is reduced to clusters around the points with
    the highest density-peak scores, and a cluster is replaced by its mean. No token is dropped, except in sets whose
    share of a small budget is 0.

    ``official`` gives the result of the release, see
    :func:`~framefold.adapters.reference.prunevid.prunevid_as_released`. The video determines the number of tokens, and
    the budget is ignored.

    Args:
        budget: retention ratio or tokens per video; ``official`` ignores it.
        variant: "exact" for the rule above, "official" for the release.
        tau: mean cosine similarity above which a position is still.
        segment_ratio: clusters of frames as a share of the frames.
        cluster_ratio: clusters of tokens as a share of the tokens of a set, for ``official``.
        neighbours: nearest points that determine the density; for ``official`` that of frames, tokens have seven.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: ``official`` on a video for which the release fails, as one of fewer frames than neighbours.
    """

    name = "prunevid"
    paper = "PruneVid, arXiv 2412.16117"
    keeps = "means of clusters, and still positions joined over windows of similar frames"
    cost = "a few passes over the tokens, and the distances within each frame"
    licence = "none"
    deviations = (
        "derives the number of clusters from the budget, in proportion to the sizes of frames and windows, where the "
        "release keeps about half of each set of more than 14 tokens; any number of frames; tokens keep their places"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        tau: float = 0.8,
        segment_ratio: float = 0.25,
        cluster_ratio: float = 0.5,
        neighbours: int = 7,
    ) -> None:
        super().__init__(budget, variant=variant)
        if not (0 < segment_ratio <= 1 and 0 < cluster_ratio <= 1 and neighbours >= 1):
            raise ConfigError(
                "prunevid: segment_ratio and cluster_ratio must be in (0, 1], and neighbours at least 1, got"
                f" {segment_ratio}, {cluster_ratio}, {neighbours}"
            )
        self.tau, self.segment_ratio, self.cluster_ratio, self.neighbours = (
            tau, segment_ratio, cluster_ratio, neighbours,
        )  # fmt: skip

    def windows(self, x: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor | None]:
        means = torch.stack([frame.to(torch.promote_types(x.dtype, torch.float32)).mean(0) for frame in x])
        count = max(1, int(len(x) * self.segment_ratio))
        _, clusters = peak_clusters(means, count, self.neighbours, by_score=True)
        windows = run_windows(refine_runs(clusters.tolist()))
        return windows, alike_positions(x, windows, self.tau), None

    def reduce(self, tokens: TokenSet, x: Tensor, video: VideoTokens, count: int) -> Clusters:
        return blended(*peak_clusters(tokens.points(x), count, self.neighbours), None)

    def official(self, video: VideoTokens, ratio: float) -> WeightedGroups:
        x = rescale_if_extreme(video.features.reshape(video.grid[0], video.per_frame, -1), max_exponent=33)
        return prunevid_as_released(
            x, tau=self.tau, segment_ratio=self.segment_ratio, cluster_ratio=self.cluster_ratio,
            neighbours=self.neighbours,
        ).groups  # fmt: skip
