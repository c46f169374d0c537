"""The released allocation of Tempo (adaptive token allocation; arXiv 2604.08120, FeiElysia/Tempo @ 0417256)."""

from __future__ import annotations

import math
from collections.abc import Sequence

SAME = 1e-8  # scores whose range is smaller count as equal


def allocate_as_released(scores: Sequence[float], budget: int, least: int = 4, most: int = 128) -> list[int]:
    """Return the number of tokens of each segment.

    The sum may be below the budget: a segment gets no more than its relative score is worth between ``least`` and
    ``most``, and what a limit cuts off is lost. It exceeds a budget of less than one token per segment, except if all
    scores are equal: then no segment gets any.

    Args:
        scores: relevance of each segment.
        budget: number of tokens of the video.
        least: tokens of the least relevant segment.
        most: tokens of the most relevant segment.
    """
    count, low, high = len(scores), min(scores), max(scores)
    if count * least > budget:
        least = max(1, budget // count)
    if high - low < SAME:
        return [min(most, budget // count)] * count
    relative = [(score - low) / (high - low) for score in scores]
    out = [least + math.floor(one * (most - least)) for one in relative]
    if sum(out) > budget:
        extra, total = budget - count * least, sum(relative)
        out = [least + math.floor(one / total * extra) for one in relative]
        left = budget - sum(out)
        order = sorted(range(count), key=lambda i: -relative[i])
        for i in order[: max(left, 0)]:
            out[i] += 1
    return [min(max(tokens, least), most) for tokens in out]
