"""Selecting rows by score, and ranking rows; ties always go to the lower row."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.errors import ContractError

from .partition import even_positions


def exact_topk(scores: Tensor, k: int) -> Tensor:
    """Return the rows of the k highest scores, ascending; ties go to the lower row.

    Args:
        scores: (N,) real numbers.
        k: number of rows.

    Returns:
        (k,) int64.

    Raises:
        ContractError: a score is NaN.
    """
    if bool(torch.isnan(scores).any()):
        raise ContractError("a score is NaN: guard divisions in score()")
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:k].sort().values


def top_and_even(scores: Tensor, top: int, k: int) -> tuple[Tensor, Tensor]:
    """Return the rows of the highest scores, and evenly spaced ones of the others, which cover the video.

    Args:
        scores: (N,) real numbers.
        top: number of rows chosen by their scores, ties to the lower row.
        k: number of rows in all.

    Returns:
        (k,) int64 rows, ascending, and (k,) bool, whether a row was chosen by its score.

    Raises:
        ContractError: a score is NaN.
    """
    best = exact_topk(scores, top)
    others = complement(best, len(scores))
    rows, order = torch.cat([best, others[even_positions(len(others), k - top, scores.device)]]).sort()
    return rows, order < top


def first_argmin(values: Tensor) -> Tensor:
    """Return the position of the lowest value in the last dimension; of equal values the first one, on every device."""
    return (values == values.amin(-1, keepdim=True)).to(torch.uint8).argmax(-1)


def first_argmax(values: Tensor) -> Tensor:
    """Return the position of the highest value in the last dimension; see :func:`first_argmin` for equal values."""
    return (values == values.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)


def complement(rows: Tensor, n: int) -> Tensor:
    """Return the other rows of 0 ... n - 1, ascending."""
    return torch.ones(n, dtype=torch.bool, device=rows.device).index_fill(0, rows, False).nonzero()[:, 0]


def select_by_stage(stage: Tensor, cost: Tensor, k: int) -> Tensor:
    """Return k rows: lower stages first, within a stage the lowest cost first, ties to the lower row.

    Args:
        stage: (T, P) integers.
        cost: (T, P) real numbers.
        k: number of rows.

    Returns:
        (k,) int64 rows of the flattened video, ascending.
    """
    order = torch.sort(cost.reshape(-1), stable=True).indices
    order = order[torch.sort(stage.reshape(-1)[order], stable=True).indices]
    return order[:k].sort().values


def rank_in_frame(cost: Tensor) -> Tensor:
    """Return the (T, P) rank of each token in its frame: 0 for the lowest cost, ties to the lower position."""
    order = torch.sort(cost, dim=1, stable=True).indices
    ranks = torch.arange(cost.shape[1], device=cost.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)


def rank_in_group(values: Tensor, groups: Tensor) -> Tensor:
    """Return the rank of each row in its group: 0 for the highest value, ties to the lower row.

    Args:
        values: (N,) real numbers.
        groups: (N,) int64 >= 0.

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
