"""The released merging of LongVLM: bipartite matching on means of channel groups, in a fixed list of steps.

(arXiv 2404.03384.) Dimensions: S segments of n tokens of width D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .tome import tome_step

MERGES = (1280, 640, 320, 160, 80, 40, 10)  # of each step; 2,560 tokens become 30


def channel_group_means(x: Tensor, groups: int) -> Tensor:
    """Return the (..., D / g) means of g equal groups of channels, where g divides ``groups`` and D."""
    return x.unflatten(-1, (math.gcd(groups, x.shape[-1]), -1)).mean(-2)


def merge_segments(
    x: Tensor, merges: Sequence[int] = MERGES, groups: int = 16, rounded: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the tokens of each segment.

    Args:
        x: (S, n, D) tokens.
        merges: number of pairs that each step merges; at most half of the tokens are merged.
        groups: number of groups of channels whose mean is matched.
        rounded: see :func:`~framefold.adapters.reference.tome.tome_step`.

    Returns:
        (S, n', D) means, (S, n', 1) sizes, and the (S, n) row of the output into which each token has gone.
    """
    size, row = x.new_ones(*x.shape[:2], 1), torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    for count in merges:
        x, size, new = tome_step(x, size, channel_group_means(x, groups), count, rounded=rounded)
        row = new.gather(1, row)
    return x, size, row
