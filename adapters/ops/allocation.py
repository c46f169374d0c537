"""Integer allocations: how many tokens of a budget each frame, segment or set gets."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.errors import ContractError

from .partition import even_positions


def share(total: int, weights: Tensor, caps: Tensor) -> Tensor:
    """Divide a total in proportion to weights, by largest remainder; no part exceeds its cap.

    What a full part cannot take is divided among the others by their weights, or evenly if these are 0. Ties go to the
    lower index. Integer weights are divided without rounding errors.

    Args:
        total: number of tokens.
        weights: (m,) non-negative numbers.
        caps: (m,) int64 upper bounds.

    Returns:
        (m,) int64 with the given total, on the device of ``caps``.

    Raises:
        ContractError: the caps add up to less than the total.
    """
    if total > int(caps.sum()):
        raise ContractError(f"parts of at most {int(caps.sum())} tokens in all cannot take {total}")
    out = caps.cpu().clone()
    weights = weights.cpu().double() if weights.is_floating_point() else weights.cpu().long()
    open_parts, left = out > 0, total
    while left > 0:
        w = torch.where(open_parts, weights, 0)
        if not bool((w > 0).any()):
            w = open_parts.to(w.dtype)
        quota, unit = w * left, w.sum()
        full = open_parts & (quota >= out * unit)
        if not bool(full.any()):
            whole = torch.div(quota, unit, rounding_mode="floor").long()
            order = torch.sort(quota - whole * unit, descending=True, stable=True).indices
            order = order[w[order] > 0]
            whole[order[: left - int(whole.sum())]] += 1
            return torch.where(open_parts, whole, out).to(caps.device)
        left -= int(out[full].sum())
        open_parts &= ~full
    return out.masked_fill(open_parts, 0).to(caps.device)


def rounded_shares(total: int, sizes: Tensor, head_start: Tensor) -> Tensor:
    """Divide a total at the common ratio at which the rounded shares of all parts add up to it.

    The n-th token of a part is due at the ratio (n - head_start) / size, so 1/2 rounds shares to the nearest integer
    and 1 rounds up. The tokens that are due first are given; of those due at the same ratio, evenly spaced ones.

    Args:
        total: number of tokens, at least 1.
        sizes: (m,) int64 size of each part, the most that it can take.
        head_start: (m,) number between 0 and the size for each part.

    Returns:
        (m,) int64 with the given total, on the CPU.

    Raises:
        ContractError: the sizes add up to less than the total.
    """
    sizes, head_start = sizes.cpu(), head_start.cpu().double()
    if total > int(sizes.sum()):
        raise ContractError(f"parts of {int(sizes.sum())} tokens in all cannot give {total}")
    part = torch.repeat_interleave(sizes)
    number = torch.arange(len(part)) - (sizes.cumsum(0) - sizes)[part] + 1
    due = ((number - head_start[part]) / sizes[part]).clamp(min=0)
    last = torch.sort(due).values[total - 1]
    given, tied = part[due < last], part[due == last]
    given = torch.cat([given, tied[even_positions(len(tied), total - len(given))]])
    return torch.bincount(given, minlength=len(sizes))


def proportional_parts(sizes: Tensor, k: int) -> Tensor:
    """Divide k among consecutive parts in proportion to their sizes: the differences of floor(c_i k / N).

    c_i is the number of tokens of the first i parts, N that of all. A part of at least N / k tokens gets at least one,
    and none gets more than its size if k <= N.

    Args:
        sizes: (m,) int64, not all 0.
        k: number of tokens.

    Returns:
        (m,) int64 with sum k.
    """
    ends = sizes.long().cumsum(0)
    return torch.diff(ends * k // ends[-1], prepend=ends.new_zeros(1))


def even_counts(total: int, parts: int, device: torch.device | None = None) -> Tensor:
    """Return (parts,) int64 counts with the given total that differ by at most one; larger ones are spread evenly."""
    counts = torch.full((parts,), total // parts, device=device)
    counts[even_positions(parts, total % parts, device)] += 1
    return counts


def joined_parts(sizes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Divide k as :func:`proportional_parts` does, and join each part that gets nothing with the next one.

    Args:
        sizes: (m,) int64, not all 0.
        k: number of tokens, 1 <= k <= sum of the sizes.

    Returns:
        (m',) sizes of the joined parts, and the (m',) tokens of each, at least 1.
    """
    counts = proportional_parts(sizes, k)
    ends = sizes.cumsum(0)[counts > 0]  # the last part always gets something
    return torch.diff(ends, prepend=ends.new_zeros(1)), counts[counts > 0]
