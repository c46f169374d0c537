"""K-means without a random number: the same clusters on every run, machine and device."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def kmeans(points: Tensor, k: int, iterations: int = 50) -> tuple[Tensor, Tensor]:
    """Cluster points by Lloyd's algorithm, in fp64, all ties to the lower index.

    Starts from point 0 and then always the point farthest from the centres so far. A cluster that loses all its
    points takes the one farthest from its own centre, so that exactly k are left even where points coincide. As many
    clusters as points are the points, in their order.

    Args:
        points: (T, D) finite numbers; k: 1 <= k <= T; iterations: upper bound, it stops when no point moves.

    Returns:
        labels (T,) int64 in [0, k), every cluster non-empty, and centres (k, D) fp64, the means of their clusters.
    """
    points = points.double()
    if k == len(points):  # a generous budget asks for it, and finding out takes T * T distances
        return torch.arange(k, device=points.device), points
    centres = points[_farthest_first(points, k)]
    labels = torch.full((len(points),), -1, device=points.device)
    for _ in range(iterations):
        distance = _squared_distances(points, centres)
        new = _fill_empty(_first_argmin(distance), distance, k)
        if torch.equal(new, labels):
            break
        labels = new
        centres = torch.zeros_like(centres).index_add_(0, labels, points)
        centres /= torch.bincount(labels, minlength=k)[:, None]
    return labels, centres


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """(T, k); differences, not the expanded square, so that equal points are at distance 0 exactly."""
    return torch.stack([(points - centre).square().sum(-1) for centre in centres], dim=1)


def _first_argmin(distance: Tensor) -> Tensor:
    """Column of the lowest value of each row; the first of equals on every device."""
    return (distance == distance.amin(1, keepdim=True)).to(torch.uint8).argmax(1)


def _farthest_first(points: Tensor, k: int) -> Tensor:
    """(k,) rows, distinct unless fewer than k points are; the clusters of repeated ones are then filled."""
    chosen = torch.zeros(k, dtype=torch.long, device=points.device)
    nearest = (points - points[0]).square().sum(-1)
    for i in range(1, k):
        chosen[i] = row = (nearest == nearest.max()).to(torch.uint8).argmax()
        nearest = torch.minimum(nearest, (points - points[row]).square().sum(-1))
    return chosen


def _fill_empty(labels: Tensor, distance: Tensor, k: int) -> Tensor:
    """Give each empty cluster the point farthest from its own centre, out of clusters of two and more."""
    counts = torch.bincount(labels, minlength=k)
    for cluster in (counts == 0).nonzero()[:, 0].tolist():
        own = distance.gather(1, labels[:, None])[:, 0]
        own = torch.where(counts[labels] > 1, own, -1)
        row = int((own == own.max()).to(torch.uint8).argmax())
        counts[labels[row]] -= 1
        labels[row] = cluster
        counts[cluster] += 1
    return labels
