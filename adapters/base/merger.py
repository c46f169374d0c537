"""Base class of methods that assign tokens to groups and replace each group with its mean."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.segments import segment_mean, segment_median, segment_sum

from .compressor import Compressor


class Merger(Compressor):
    """Replaces each group with its size-weighted mean, anchored at its middle member. Implement :meth:`assign`."""

    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        """Return the (N,) int64 group of each token: k non-empty groups 0..k-1 in any order; -1 drops a token."""
        raise NotImplementedError(f"{type(self).__name__} must implement assign()")

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return merge(video, self.assign(video, k, query), k)


def merge(video: VideoTokens, groups: Tensor, k: int) -> VideoTokens:
    """Merge each of k groups into its size-weighted mean, ordered by anchor (the middle member of the group).

    Args:
        video: N tokens.
        groups: (N,) int64 group of each token in [-1, k), every group non-empty; -1 drops a token.
        k: number of groups.
    """
    anchor = segment_median(groups, k)
    order = torch.sort(anchor).indices
    rank = torch.full((k + 1,), -1, dtype=torch.long, device=groups.device)
    rank[order] = torch.arange(k, device=groups.device)
    groups = rank[groups]  # index -1 reads the extra last entry, which is -1
    padded = torch.cat([groups, groups.new_tensor([-1])])
    return replace(
        video,
        features=segment_mean(video.features, video.size, groups, k),
        index=video.index[anchor[order]],
        size=segment_sum(video.size, groups, k),
        assign=padded[video.assign],
    )
