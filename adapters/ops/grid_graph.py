"""The space-time graph of ST-SimDiff: neighbour similarities, communities, centrality. Pure tensor maths, no budgets.

Dimensions: T frames of H x W cells, P = H*W, N = T*P tokens, D width. The features are read frame by frame, because a
frame fits the cache and a video does not, and always in fp32, so that the input's dtype does not decide what is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .connected_components import components


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
