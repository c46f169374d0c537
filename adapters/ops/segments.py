"""Sums, means and medians over groups of rows, and copying group results back to their members.

Dimensions: N tokens in, K tokens out, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 512  # rows at a time, which fit the CPU cache


def segment_sum(values: Tensor, groups: Tensor, k: int) -> Tensor:
    """Sum the rows of each group, in fp32 or wider; rows of group -1 are ignored.

    Args:
        values: (N, ...) numbers.
        groups: (N,) int64 in [-1, k).
        k: number of groups.

    Returns:
        (k, ...) sums, differentiable with respect to ``values``.
    """
    if values.is_floating_point():
        values = values.to(torch.promote_types(values.dtype, torch.float32))
    out = values.new_zeros((k + 1, *values.shape[1:]))
    return out.index_add_(0, torch.where(groups < 0, k, groups), values)[:k]


def weighted_segment_sum(features: Tensor, weights: Tensor, groups: Tensor, k: int) -> Tensor:
    """Sum the weighted rows of each group, in fp32 or wider, without a copy of all rows; group -1 is ignored.

    Args:
        features: (N, D).
        weights: (N,) numbers.
        groups: (N,) int64 in [-1, k).
        k: number of groups.

    Returns:
        (k, D) sums, differentiable with respect to ``features``.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    out = features.new_zeros((k + 1, features.shape[1]), dtype=dtype)
    blocks = [x.split(BLOCK) for x in (features, weights.to(dtype), torch.where(groups < 0, k, groups))]
    for rows, weight, group in zip(*blocks, strict=True):
        out.index_add_(0, group, rows.to(dtype) * weight[:, None])
    return out[:k]


def segment_mean(features: Tensor, weights: Tensor, groups: Tensor, k: int) -> Tensor:
    """Return the weighted mean of the rows of each group, computed in fp32 or wider, in the dtype of the input.

    Args:
        features: (N, D).
        weights: (N,) positive numbers.
        groups: (N,) int64 in [-1, k), every group non-empty.
        k: number of groups.
    """
    if bool((weights == 1).all()):
        total = segment_sum(features, groups, k)
    else:
        total = weighted_segment_sum(features, weights, groups, k)
    return total.div_(segment_sum(weights.to(total.dtype), groups, k)[:, None]).to(features.dtype)


def first_frames(begins: Tensor, per_frame: int) -> Tensor:
    """Return (T * P,) bool, the tokens of the frames that begin a segment; the first frame of the video does not.

    Args:
        begins: (T,) bool, whether a segment begins at a frame.
        per_frame: number of tokens P of a frame.
    """
    begins = begins.clone()
    begins[0] = False
    return begins.repeat_interleave(per_frame)


def segment_median(groups: Tensor, k: int) -> Tensor:
    """Return the row of the middle member (lower median) of each group.

    Args:
        groups: (N,) int64 in [-1, k), every group non-empty.
        k: number of groups.

    Returns:
        (k,) int64, distinct, because groups are disjoint.
    """
    rows = torch.sort(groups, stable=True).indices  # members of a group are contiguous and ascending; group -1 first
    count = torch.bincount(groups + 1, minlength=k + 1)
    first = count.cumsum(0)[:-1]
    return rows[first + (count[1:] - 1) // 2]


def unmerge(features: Tensor, assign: Tensor) -> Tensor:
    """Copy each output token to the original positions that it represents; dropped positions get zeros.

    Args:
        features: (K, D).
        assign: (N,) int64 in [-1, K).

    Returns:
        (N, D).
    """
    padded = torch.cat([features, features.new_zeros(1, features.shape[1])])
    return padded[assign]
