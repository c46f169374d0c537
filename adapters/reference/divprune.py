"""The choice of DivPrune's release, which takes copies of a token again instead of leaving them out."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.ops.max_min import PointSet, farthest_points, most_isolated


@torch.no_grad()
def divprune_order(features: Tensor, count: int, period: int = 1) -> Tensor:
    """Return the rows that the release chooses, in its order.

    The release does not mark chosen tokens. Once every remaining token is a copy of a chosen one, all its distances are
    0, and it chooses one row until it has enough; here it is the lowest one, in the release a matter of rounding.

    Args:
        features: (N, D) tokens.
        count: number of choices, round(ratio * N) in the release; 0 gives none.
        period: see :func:`~framefold.adapters.ops.max_min.most_isolated`; affects only the time.

    Returns:
        (count,) int64 rows.
    """
    if not count:
        return torch.zeros(0, dtype=torch.long, device=features.device)
    points = PointSet.prepare(features, "cosine")
    distinct = min(count, len(points.key.unique()))
    order = farthest_points(points, distinct, most_isolated(points, period))
    return torch.cat([order, order.min().expand(count - distinct)])
