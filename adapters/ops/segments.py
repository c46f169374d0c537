"""Pure tensor maths shared by the compressors: budgets, exact top-k, partitions, segment means, un-merge.

Dimensions: N tokens in, K tokens out, D width, P = H*W cells of a frame. Nothing here knows a compressor or a host.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, groups: Tensor, k: int) -> Tensor:
    """Sum the rows of each group, in fp32 or wider; groups of -1 are left out.

    Args:
        values: (N, ...) numbers.
        groups: (N,) int64 in [-1, k).

    Returns:
        (k, ...) sums; differentiable in values.
    """
    if values.is_floating_point():
        values = values.to(torch.promote_types(values.dtype, torch.float32))
    out = values.new_zeros((k + 1, *values.shape[1:]))
    return out.index_add(0, torch.where(groups < 0, k, groups), values)[:k]


def segment_mean(features: Tensor, weights: Tensor, groups: Tensor, k: int) -> Tensor:
    """Weighted mean of the rows of each group, computed in fp32 or wider and returned in the input's dtype.

    Args:
        features: (N, D); weights: (N,) positive; groups: (N,) int64 in [-1, k), every group non-empty.
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    weights = weights.to(wide.dtype)
    total = segment_sum(wide * weights[:, None], groups, k)
    return (total / segment_sum(weights, groups, k)[:, None]).to(features.dtype)


def segment_median(groups: Tensor, k: int) -> Tensor:
    """Row number of the middle member (lower median) of each group.

    Args:
        groups: (N,) int64 in [-1, k), every group non-empty.

    Returns:
        (k,) int64: distinct, since groups are disjoint.
    """
    rows = torch.sort(groups, stable=True).indices  # members of a group are contiguous and ascending; -1 first
    count = torch.bincount(groups + 1, minlength=k + 1)
    first = count.cumsum(0)[:-1]
    return rows[first + (count[1:] - 1) // 2]


def unmerge(features: Tensor, assign: Tensor) -> Tensor:
    """Copy each output token back to the original places it stands for; dropped places get zeros.

    Args:
        features: (K, D); assign: (N,) int64 in [-1, K).

    Returns:
        (N, D).
    """
    padded = torch.cat([features, features.new_zeros(1, features.shape[1])])
    return padded[assign]
