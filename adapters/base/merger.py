"""Rung 2: methods that put tokens into groups and replace each group by its mean."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.segments import segment_mean, segment_median, segment_sum

from .compressor import Compressor


class Merger(Compressor):
    """Replaces each group by its size-weighted mean, anchored at its middle member. Implement :meth:`assign`."""

    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        """(N,) int64 group of each token: exactly k non-empty groups 0..k-1 in any order, -1 drops a token."""
        raise NotImplementedError(f"{type(self).__name__} must implement assign()")

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return merge(video, self.assign(video, k, query), k)


def merge(video: VideoTokens, groups: Tensor, k: int) -> VideoTokens:
    """Size-weighted means of k groups, ordered by their anchors (the middle member of each).

    Args:
        groups: (N,) int64 in [-1, k), every group non-empty.
    """
    anchor = segment_median(groups, k)
    order = torch.sort(anchor).indices
    rank = torch.full((k + 1,), -1, dtype=torch.long, device=groups.device)
    rank[order] = torch.arange(k, device=groups.device)
    groups = rank[groups]  # -1 reads the extra last entry, which is -1
    padded = torch.cat([groups, groups.new_tensor([-1])])
    return replace(
        video,
        features=segment_mean(video.features, video.size, groups, k),
        index=video.index[anchor[order]],
        size=segment_sum(video.size, groups, k),
        assign=padded[video.assign],
    )
