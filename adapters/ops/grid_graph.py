"""The space-time graph of ST-SimDiff: communities and centrality.

Dimensions: T frames of H x W cells, P = H*W, N = T*P tokens, D width. Features are read frame by frame, because a frame
fits the CPU cache and a video does not, and in fp32, so that the dtype of the input does not affect the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .connected_components import connected_components


def communities(temporal: Tensor, right: Tensor, bottom: Tensor) -> Tensor:
    """Return the connected components of the grid graph.

    Args:
        temporal: (T, H, W) bool, edge to the same cell of the previous frame; frame 0 is ignored.
        right: (T, H, W) bool, edge to the next column; the last column is ignored.
        bottom: (T, H, W) bool, edge to the next row; the last row is ignored.

    Returns:
        (N,) int64 component of each token; an isolated token is a component of its own.
    """
    ids = torch.arange(temporal.numel(), device=temporal.device).reshape(temporal.shape)
    a, b, c = temporal[1:], right[:, :, :-1], bottom[:, :-1]
    source = torch.cat([ids[:-1][a], ids[:, :, :-1][b], ids[:, :-1][c]])
    target = torch.cat([ids[1:][a], ids[:, :, 1:][b], ids[:, 1:][c]])
    return connected_components(source, target, ids.numel())


def centrality(video: Tensor, inverse: Tensor, labels: Tensor, least: int = 3) -> Tensor:
    """Return the mean cosine similarity of each token with all members of its component, including itself.

    The sum of the cosines of token i is <u_i, sum of all u_j of the component>, so no pairwise matrix is needed.

    Args:
        video: (T, H, W, D) features.
        inverse: (T, H, W) 1 / |x|.
        labels: (N,) int64 component of each token.
        least: members of components with fewer members get 0; in components of one or two all are equally central.

    Returns:
        (N,) fp32.
    """
    video, inverse = video.flatten(1, 2), inverse.flatten(1)
    t, p, d = video.shape
    sizes = torch.bincount(labels)
    dense = torch.where(sizes >= least, 1, 0).cumsum(0)
    slot = torch.where(sizes >= least, dense - 1, dense[-1])[labels].reshape(t, p)
    sums = torch.zeros(int(dense[-1]) + 1, d, device=video.device)  # the last slot collects small components
    for x, scale, rows in zip(video, inverse, slot, strict=True):
        sums.index_add_(0, rows, x.float() * scale[:, None])
    sums[-1] = 0
    out = torch.stack([(x.float() * sums[rows]).sum(-1) for x, rows in zip(video, slot, strict=True)])
    return (out * inverse).reshape(-1) / sizes[labels]
