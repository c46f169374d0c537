"""The released allocation of Tempo (adaptive token allocation; arXiv 2604.08120, FeiElysia/Tempo @ 0417256)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

SAME = 1e-8  # scores whose range is smaller count as equal


def allocate_as_released(scores: Sequence[float], budget: int, least: int = 4, most: int = 128) -> list[int]:
    """Return the number of tokens of each segment.

    The sum may be below the budget: a segment gets no more than its relative score is worth between ``least`` and
    ``most``, and what a limit cuts off is lost. It exceeds a budget of less than one token per segment, except if all
    scores are equal: then no segment gets any. The arithmetic is fp32, as released: rounding decides some tokens.

    Args:
        scores: relevance of each segment.
        budget: number of tokens of the video.
        least: tokens of the least relevant segment.
        most: tokens of the most relevant segment.
    """
    count = len(scores)
    if count * least > budget:
        least = max(1, budget // count)
    values = torch.tensor(scores, dtype=torch.float32)
    relative = values - values.min()
    if relative.max() < SAME:
        return [min(most, budget // count)] * count
    relative /= relative.max()
    out = least + (relative * (most - least)).floor().long()
    if int(out.sum()) > budget:
        extra, share = budget - count * least, relative / relative.sum()
        more = (share * extra).floor().long()
        best = torch.sort(share, descending=True, stable=True).indices
        more[best[: max(extra - int(more.sum()), 0)]] += 1
        out = least + more
    return out.clamp(least, most).tolist()
