"""Pure tensor maths shared by the compressors: budgets, exact top-k, partitions, segment means, un-merge.

Dimensions: N tokens in, K tokens out, D width, P = H*W cells of a frame. Nothing here knows a compressor or a host.
"""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from .errors import BudgetError, ContractError

Budget = float | int
AUTO = "auto"  # the compressor predicts its budget


def check_budget(budget: Budget) -> Budget:
    """Return the budget if it is a retention ratio (float in (0, 1]) or a number of tokens per video (int >= 1).

    Returns:
        A Python float or int, also for NumPy's numbers: that is what JSON and equality of settings need.

    Raises:
        BudgetError: anything else, booleans and NaN included.
    """
    if isinstance(budget, bool) or not isinstance(budget, Real):
        raise BudgetError(f"budget must be a ratio (float) or a number of tokens (int), got {budget!r}")
    if isinstance(budget, Integral):
        if budget < 1:
            raise BudgetError(f"a budget in tokens must be at least 1, got {budget}")
        return int(budget)
    ratio = float(budget)
    if not 0.0 < ratio <= 1.0:
        raise BudgetError(f"a retention ratio must be in (0, 1], got {ratio} (use an int for a number of tokens)")
    return ratio


def budget_tokens(budget: Budget, n: int) -> int:
    """Exact number of tokens that a budget leaves of n: min(n, max(1, round(ratio * n))) or min(n, tokens)."""
    if isinstance(budget, float):
        return min(n, max(1, round(budget * n)))
    return min(n, budget)


def exact_topk(scores: Tensor, k: int) -> Tensor:
    """Row numbers of the k highest scores, ascending; ties go to the lower row.

    Args:
        scores: (N,) real numbers.

    Returns:
        (k,) int64.

    Raises:
        ContractError: a score is NaN, which has no rank.
    """
    if bool(torch.isnan(scores).any()):
        raise ContractError("a score is NaN: guard divisions in score()")
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:k].sort().values


def spread(n: int, k: int, device: torch.device | None = None) -> Tensor:
    """k of n positions, evenly spaced: the middles of k equal stretches. (k,) int64, strictly ascending for k <= n."""
    steps = torch.arange(k, device=device)
    return (2 * steps + 1) * n // (2 * k)


def split_runs(n: int, k: int, device: torch.device | None = None) -> Tensor:
    """Cut n positions into k contiguous runs whose lengths differ by at most one.

    Returns:
        (n,) int64 run number of each position, ascending, every run non-empty for k <= n.
    """
    return torch.arange(n, device=device) * k // n


def split_cells(height: int, width: int, k: int, device: torch.device | None = None) -> Tensor:
    """Cut an H x W frame into exactly k near-square rectangles of near-equal area.

    Rows are cut into bands, each band into columns; bands differ by at most one column.

    Returns:
        (H*W,) int64 rectangle number of each cell, row-major, every rectangle non-empty for k <= H*W.
    """
    bands = round((k * height / width) ** 0.5)
    bands = min(max(bands, 1, -(-k // width)), height, k)
    band = split_runs(height, bands)
    cells = torch.empty(height, width, dtype=torch.long)
    first = 0
    for b in range(bands):  # at most H iterations
        columns = (b + 1) * k // bands - b * k // bands
        cells[band == b] = first + split_runs(width, columns)
        first += columns
    return cells.reshape(-1).to(device)


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
