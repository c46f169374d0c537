"""Frame budgets of V-CAST as released."""

from __future__ import annotations

import torch
from torch import Tensor


def released_frame_budgets(weights: Tensor, count: int, per_frame: int, min_tokens: int) -> Tensor:
    """Return the (T,) int64 tokens of each frame.

    Every frame gets ``min_tokens`` tokens and the integer part of its quota of the others. The frame with the largest
    fraction then takes all that is left until it is full, and after it the frame with the next largest.

    Args:
        weights: (T,) positive numbers with sum 1.
        count: number of tokens asked for; raised to T * min_tokens.
        per_frame: number of tokens P of a frame.
        min_tokens: least number of tokens of a frame.
    """
    floor = min(min_tokens, per_frame)
    count = max(count, len(weights) * floor)
    quota = weights * (count - len(weights) * floor)
    budgets = floor + quota.floor().long().clamp(max=per_frame - floor)
    order = torch.sort(quota - quota.floor(), descending=True, stable=True).indices
    room = (per_frame - budgets)[order]
    before = room.cumsum(0) - room
    budgets[order] += torch.minimum(room, (count - budgets.sum() - before).clamp(min=0))
    return budgets
