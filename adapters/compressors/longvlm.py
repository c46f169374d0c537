"""LongVLM: similar tokens of each segment of frames are merged in rounds (arXiv 2404.03384)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.merger import Merger, merge
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import joined_parts
from framefold.adapters.ops.bipartite import merge_down
from framefold.adapters.ops.partition import split_runs
from framefold.adapters.ops.similarity import Frames
from framefold.adapters.reference.longvlm import channel_group_means, merge_segments
from framefold.errors import ConfigError, InputError


class LongVLM(Merger):
    """Merges similar tokens within segments of consecutive frames. Training-free.

    ``exact`` keeps k tokens for any k. The video is cut into ceil(T / ``segment_frames``) segments of near-equal
    length, which give tokens in proportion to their lengths; a segment too short for a token joins the next one. In
    rounds, each token of even number in the segment is paired with the token of odd number most similar to it, and the
    most similar pairs merge, at most half of the tokens in a round. Similarity is the cosine of the means of ``groups``
    equal groups of channels. A token of the output is the mean of all its tokens, each counted once. Ties go to the
    lower index, and similarities are multiples of 2^-20.

    ``official`` merges as many pairs in each round as the paper does, whatever the budget: at most 30 tokens remain of
    10 frames of 256. The global tokens of the paper, class tokens of all layers of the encoder, are in neither variant.

    Args:
        budget: retention ratio or tokens per video; ``official`` ignores it.
        variant: "exact" for the rule above, "official" for the release.
        segment_frames: largest number of frames of a segment; ``official`` needs a multiple of it.
        groups: number of groups of channels, or the largest divisor of it that also divides the width.

    Raises:
        ConfigError: an unknown variant, or a parameter is less than 1.
        InputError: ``official`` on a number of frames that ``segment_frames`` does not divide.
    """

    name = "longvlm"
    paper = "LongVLM, arXiv 2404.03384"
    keeps = "means of similar tokens within segments of ten frames"
    cost = "one pass over the tokens, and products of short vectors within each segment"
    licence = "none"
    deviations = (
        "the budget determines how many pairs merge; any number of frames; orders tokens by their middle members "
        "instead of by similarity; no global tokens from the layers of the encoder"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        segment_frames: int = 10,
        groups: int = 16,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"longvlm: variant must be 'exact' or 'official', got {variant!r}")
        if segment_frames < 1 or groups < 1:
            raise ConfigError(f"longvlm: must be at least 1: {segment_frames=}, {groups=}")
        self.variant, self.segment_frames, self.groups = variant, segment_frames, groups
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if self.exact_budget:
            return super().compress(video, k, query)
        frames = video.grid[0]
        if frames % self.segment_frames:
            raise InputError(f"longvlm: official needs a multiple of {self.segment_frames} frames, got {frames}")
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            metric = self._metric(video).unflatten(0, (frames // self.segment_frames, -1))
            means, _, row = merge_segments(metric, groups=1, rounded=True)
        count = means.shape[1]
        groups = row + count * torch.arange(len(row), device=row.device)[:, None]
        return merge(video, groups.reshape(-1), count * len(row))

    @torch.no_grad()
    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        frames = video.grid[0]
        lengths = torch.bincount(split_runs(frames, min(-(-frames // self.segment_frames), k)))
        sizes, counts = joined_parts(lengths * video.per_frame, k)
        metric = self._metric(video) * video.size[:, None]  # above 1 in chains, whose earlier stages have merged tokens
        groups, first = [], 0
        for sums, count in zip(metric.split(sizes.tolist()), counts.tolist(), strict=True):
            groups.append(first + merge_down(sums, count)[1])
            first += count
        return torch.cat(groups)

    def _metric(self, video: VideoTokens) -> Tensor:
        """Return (N, D / g) fp32 vectors that are matched; the mean of merged tokens has the mean of their vectors."""
        return torch.cat([channel_group_means(frame, self.groups) for frame in Frames(video, rescale=True)])
