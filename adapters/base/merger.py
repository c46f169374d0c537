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
    anchors = segment_median(groups, k)
    order, rank = _order_by_anchor(anchors)
    groups = rank[groups]
    return _with_groups(video, anchors[order], groups, segment_mean(video.features, video.size, groups, k))


def merge_at(
    video: VideoTokens, anchors: Tensor, groups: Tensor, features: Tensor, changed: Tensor | None = None
) -> VideoTokens:
    """Replace each of k groups by a token with a given anchor and given features, ordered by anchor.

    Args:
        video: N tokens.
        anchors: (k,) int64 distinct rows, each a member of its group.
        groups: (N,) int64 group of each token in [-1, k); -1 drops a token.
        features: (k, D) in the order of the groups, or (c, D) of the changed groups.
        changed: (c,) int64 groups that get features; the others keep those of their anchors. None: all groups.
    """
    order, rank = _order_by_anchor(anchors)
    features = features.to(video.features.dtype)
    if changed is None:
        values = features[order]
    else:
        values = video.features[anchors[order]]
        values[rank[changed]] = features
    return _with_groups(video, anchors[order], rank[groups], values)


def merge_at_targets(video: VideoTokens, kept: Tensor, targets: Tensor, join: Tensor, features: Tensor) -> VideoTokens:
    """Keep some tokens unchanged, and replace targets, which represent themselves and the tokens that join them.

    Args:
        video: N tokens.
        kept: (n,) int64 rows to keep unchanged.
        targets: (c,) int64 other rows.
        join: (N,) int64 target that each other token joins, -1 for none; ignored for the rows above.
        features: (c, D) of the targets.
    """
    anchors = torch.cat([kept, targets])
    groups = torch.where(join < 0, -1, join + len(kept))
    groups[anchors] = torch.arange(len(anchors), device=groups.device)
    return merge_at(video, anchors, groups, features, groups[targets])


def _order_by_anchor(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (k,) order of ascending anchors, and the (k + 1,) rank of each group; that of group -1 is -1."""
    k = len(anchors)
    order = torch.sort(anchors).indices
    rank = torch.full((k + 1,), -1, dtype=torch.long, device=anchors.device)
    rank[order] = torch.arange(k, device=anchors.device)
    return order, rank


def _with_groups(video: VideoTokens, anchors: Tensor, groups: Tensor, features: Tensor) -> VideoTokens:
    padded = torch.cat([groups, groups.new_tensor([-1])])
    return replace(
        video,
        features=features,
        index=video.index[anchors],
        size=segment_sum(video.size, groups, len(anchors)),
        assign=padded[video.assign],
    )
