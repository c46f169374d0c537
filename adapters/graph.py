"""The space-time graph of ST-SimDiff: neighbour similarities, communities, centrality. Pure tensor maths, no budgets.

Dimensions: T frames of H x W cells, P = H*W, N = T*P tokens, D width. The features are read frame by frame, because a
frame fits the cache and a video does not, and always in fp32, so that the input's dtype does not decide what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .components import components

TINY = 1e-15  # shorter vectors count as zero: their squares would vanish in fp32


@dataclass(frozen=True)
class Similarities:
    """Cosine similarity of neighbours; a zero vector has similarity 0 with everything.

    Attributes:
        temporal: (T, H, W) with the same cell of the previous frame; frame 0 holds 1.
        right: (T, H, W) with the next cell of the row; the last column holds -1.
        bottom: (T, H, W) with the same cell of the next row; the last row holds -1.
        inverse: (T, H, W) 1 / |x|, and 0 for a zero vector.
    """

    temporal: Tensor
    right: Tensor
    bottom: Tensor
    inverse: Tensor


def similarities(video: Tensor) -> Similarities:
    """Similarities of neighbouring tokens in one pass.

    Args:
        video: (T, H, W, D) features of any floating dtype, as :func:`moderate` returns them.
    """
    t, h, w, _ = video.shape
    temporal, right, bottom = (video.new_empty((t, h, w), dtype=torch.float32) for _ in range(3))
    norm = torch.empty_like(temporal)
    previous = None
    for i, frame in enumerate(video):
        x = frame.float()
        norm[i] = torch.linalg.vector_norm(x, dim=-1)
        right[i, :, :-1] = (x[:, 1:] * x[:, :-1]).sum(-1)
        bottom[i, :-1] = (x[1:] * x[:-1]).sum(-1)
        if previous is not None:
            temporal[i] = (x * previous).sum(-1)
        previous = x
    inverse = torch.where(norm > TINY, 1 / norm, 0)
    temporal[1:] *= inverse[1:] * inverse[:-1]
    right[:, :, :-1] *= inverse[:, :, 1:] * inverse[:, :, :-1]
    bottom[:, :-1] *= inverse[:, 1:] * inverse[:, :-1]
    temporal[0], right[:, :, -1], bottom[:, -1] = 1, -1, -1
    return Similarities(temporal, right, bottom, inverse)


def moderate(video: Tensor) -> Tensor:
    """The video itself, or divided by its largest magnitude where squares in fp32 would overflow or vanish."""
    low, high = torch.aminmax(video)
    peak = max(-float(low), float(high))
    if peak == 0 or 1e-10 <= peak <= 1e10:
        return video
    return (video.to(torch.promote_types(video.dtype, torch.float32)) / peak).float()


def communities(temporal: Tensor, right: Tensor, bottom: Tensor) -> Tensor:
    """Connected components of the grid graph.

    Args:
        temporal: (T, H, W) bool, edge to the same cell of the previous frame (frame 0 is ignored).
        right, bottom: (T, H, W) bool, edge to the next column / row (the last one is ignored).

    Returns:
        (N,) int64 component of each token; an isolated token is a component of one.
    """
    ids = torch.arange(temporal.numel(), device=temporal.device).reshape(temporal.shape)
    a, b, c = temporal[1:], right[:, :, :-1], bottom[:, :-1]
    source = torch.cat([ids[:-1][a], ids[:, :, :-1][b], ids[:, :-1][c]])
    target = torch.cat([ids[1:][a], ids[:, :, 1:][b], ids[:, 1:][c]])
    return components(source, target, ids.numel())


def centrality(video: Tensor, inverse: Tensor, labels: Tensor, least: int = 3) -> Tensor:
    """Mean cosine similarity of each token with the members of its component, itself included.

    The sum of the cosines of token i is <u_i, sum of all u_j of the component>, so no pairwise matrix is made.

    Args:
        video: (T, H, W, D) features; inverse: (T, H, W) 1 / |x|; labels: (N,) int64 component of each token.
        least: members of smaller components get 0; those of components of one or two are equally central anyway.

    Returns:
        (N,) fp32.
    """
    video, inverse = video.flatten(1, 2), inverse.flatten(1)
    t, p, d = video.shape
    sizes = torch.bincount(labels)
    dense = torch.where(sizes >= least, 1, 0).cumsum(0)
    slot = torch.where(sizes >= least, dense - 1, dense[-1])[labels].reshape(t, p)
    sums = torch.zeros(int(dense[-1]) + 1, d, device=video.device)  # the last slot takes the small ones, unread
    for x, scale, rows in zip(video, inverse, slot, strict=True):
        sums.index_add_(0, rows, x.float() * scale[:, None])
    sums[-1] = 0
    out = torch.stack([(x.float() * sums[rows]).sum(-1) for x, rows in zip(video, slot, strict=True)])
    return (out * inverse).reshape(-1) / sizes[labels]


def rank_in_group(values: Tensor, groups: Tensor) -> Tensor:
    """Rank of each row among the rows of its group: 0 for the highest value, ties to the lower row.

    Args:
        values: (N,) real; groups: (N,) int64 >= 0.

    Returns:
        (N,) int64.
    """
    order = torch.sort(values, descending=True, stable=True).indices
    order = order[torch.sort(groups[order], stable=True).indices]
    sizes = torch.bincount(groups)
    first = (sizes.cumsum(0) - sizes)[groups[order]]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - first
    return ranks
