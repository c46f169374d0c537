"""Scores of density-peaks clustering (DPC-kNN): cluster centres are dense and far from anything denser."""

from __future__ import annotations

import torch
from torch import Tensor

SAME = 1e-6  # squared distances below this part of the squared norms are rounding errors, and count as 0


def scaled_distances(points: Tensor, scale: bool = True) -> Tensor:
    """Return the (B, n, n) Euclidean distances of the points of each set, in fp32 or wider.

    Sets are centred first, so that what all points have in common costs no precision.

    Args:
        points: (B, n, D) of moderate magnitude (:func:`~framefold.adapters.ops.similarity.rescale_if_extreme`).
        scale: divide by sqrt(D), as most releases do.
    """
    x = points.to(torch.promote_types(points.dtype, torch.float32))
    x = x - x.mean(1, keepdim=True)
    square = x.square().sum(-1)
    both = square[:, :, None] + square[:, None]
    distance = torch.baddbmm(both, x, x.transpose(1, 2), alpha=-2)
    distance = torch.where(distance > SAME * both, distance, 0).sqrt()
    return distance / x.shape[-1] ** 0.5 if scale else distance


def density_peaks(distance: Tensor, neighbours: int, include_self: bool = True, valid: Tensor | None = None) -> Tensor:
    """Return the (B, n) logarithm of density times distance to the nearest denser point; the highest are centres.

    The density of a point is exp(-mean squared distance of its nearest points). A point with no denser one counts the
    largest distance of its set instead. Logarithms have the same order as the product, and neither underflow nor tie
    where distances are large. The releases add random noise to densities; this function does not.

    Args:
        distance: (B, n, n) of each set.
        neighbours: number of nearest points; fewer if the set has fewer.
        include_self: count the point itself, at distance 0, as its nearest one.
        valid: (B, n) bool, the points of each set, at least one; the others are ignored and get -inf. None: all.

    Returns:
        (B, n), finite for valid points; choose with a stable sort.
    """
    n = distance.shape[-1]
    absent = distance.new_zeros(distance.shape, dtype=torch.bool)
    if valid is not None:
        absent = ~(valid[:, :, None] & valid[:, None])
    largest = distance.masked_fill(absent, 0).flatten(1).amax(1)[:, None]

    own = torch.eye(n, dtype=torch.bool, device=distance.device)
    others = absent if include_self else absent | own
    near = distance.masked_fill(others, torch.inf).topk(min(neighbours, n), dim=-1, largest=False).values
    there = near.isfinite()
    sparsity = near.masked_fill(~there, 0).square().sum(-1) / there.sum(-1).clamp(min=1)

    denser = (sparsity[:, None] < sparsity[:, :, None]) & ~absent
    away = torch.minimum(distance.masked_fill(~denser, torch.inf).amin(-1), largest)
    score = (away.log() - sparsity).clamp(min=torch.finfo(distance.dtype).min)
    return score if valid is None else score.masked_fill(~valid, -torch.inf)
