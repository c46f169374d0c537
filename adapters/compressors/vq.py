"""VQ: spherical k-means over the tokens of the video; VQToken without its trained part (arXiv 2503.16980)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.merger import Merger
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import joined_parts
from framefold.adapters.ops.kmeans import block_kmeans
from framefold.adapters.ops.partition import split_runs
from framefold.adapters.ops.similarity import TINY, normalize, rescale_if_extreme
from framefold.errors import ConfigError


class VQ(Merger):
    """Clusters all tokens into k groups by k-means of their directions. Training-free.

    It is the zero-parameter part of VQToken: a codebook of the video. Rule for exactly k tokens:

    1. Seeds are the first token and then, repeatedly, the token farthest from the seeds so far.
    2. Each token joins the centre of the highest cosine similarity; a centre moves to the direction of the mean of its
       normalized tokens. This is repeated until no token changes its cluster, at most ``rounds`` times.
    3. A cluster that loses all its tokens gets the token farthest from its own centre, so there are always k clusters.

    A token of the output is the mean of the tokens of a cluster, which are not normalized. Ties go to the lower index.

    Time grows with the number of tokens times k. ``segment_frames`` limits it: each segment of the video gives tokens
    in proportion to its length; a segment too short for a token joins the next one.

    Args:
        budget: retention ratio or tokens per video.
        norm: cluster directions ("unit", as published) or the tokens themselves by Euclidean distance ("raw").
        segment_frames: number of frames that are clustered together; None: the whole video, as published.
        time_weight: weight of the position in time relative to the content, as in ``scene_mean``; 0 ignores time, as
            published.
        rounds: largest number of updates of the centres.

    Raises:
        ConfigError: a parameter is out of range.
    """

    name = "vq"
    paper = "VQToken, arXiv 2503.16980"
    keeps = "means of the clusters of spherical k-means over all tokens"
    cost = "k N D to find seeds, and k N D for the first round; later rounds compare clusters that have changed"
    growth = "quadratic"
    licence = "BSD-3-Clause"
    deviations = (
        "k clusters instead of 32 or an adaptive number; deterministic seeds instead of random ones; no cluster "
        "stays empty; means of the tokens instead of means of their directions; no learned decoder layer"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        norm: Literal["unit", "raw"] = "unit",
        segment_frames: int | None = None,
        time_weight: float = 0.0,
        rounds: int = 10,
    ) -> None:
        super().__init__(budget)
        if norm not in ("unit", "raw"):
            raise ConfigError(f"vq: norm must be 'unit' or 'raw', got {norm!r}")
        if segment_frames is not None and segment_frames < 1 or not time_weight >= 0 or rounds < 0:
            raise ConfigError(
                f"vq: out of range: {segment_frames=} (at least 1), {time_weight=} and {rounds=} (at least 0)"
            )
        self.norm, self.segment_frames, self.time_weight, self.rounds = norm, segment_frames, time_weight, rounds

    @torch.no_grad()
    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        sizes, counts = self.segments(video, k)
        directions = video.width if self.norm == "unit" else 0
        groups, first = [], 0
        for points, count in zip(self._points(video).split(sizes), counts, strict=True):
            groups.append(first + block_kmeans(points, count, self.rounds, directions))
            first += count
        return torch.cat(groups)

    def segments(self, video: VideoTokens, k: int) -> tuple[list[int], list[int]]:
        """Return the number of tokens of each segment, and the number of clusters that it gets."""
        frames = video.grid[0]
        segments = 1 if self.segment_frames is None else min(-(-frames // self.segment_frames), k)
        sizes, counts = joined_parts(torch.bincount(split_runs(frames, segments)) * video.per_frame, k)
        return sizes.tolist(), counts.tolist()

    def _points(self, video: VideoTokens) -> Tensor:
        """Return the (N, D) fp32 points that are clustered, with a column for time if it has a weight."""
        frames = rescale_if_extreme(video.features.reshape(video.grid[0], video.per_frame, -1))
        points = torch.empty(len(video), video.width + (self.time_weight > 0), device=frames.device)
        content = points[:, : video.width]
        if self.norm == "unit":
            for target, frame in zip(content.split(video.per_frame), frames, strict=True):
                target.copy_(normalize(frame.float(), TINY))
        else:
            content.copy_(frames.flatten(0, 1))
            content -= content.mean(0)  # changes no distance, and lets squares cancel less
        if self.time_weight > 0:
            spread = (content.square().sum(1).mean() - content.mean(0).square().sum()).clamp_min(0).sqrt()
            position = torch.linspace(-1, 1, len(frames), device=points.device) * 3**0.5  # of spread 1
            points[:, -1] = (self.time_weight * spread * position).repeat_interleave(video.per_frame)
        return points
