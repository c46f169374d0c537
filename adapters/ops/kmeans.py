"""Deterministic k-means: the same clusters on every run, machine and device."""

from __future__ import annotations

import torch
from torch import Tensor

from .selection import first_argmin


@torch.no_grad()
def kmeans(points: Tensor, k: int, iterations: int = 50) -> tuple[Tensor, Tensor]:
    """Cluster points with Lloyd's algorithm, in fp64; all ties go to the lower index.

    The initial centres are point 0 and then, repeatedly, the point farthest from the centres so far. A cluster that
    loses all its points gets the point farthest from its own centre, so that there are always exactly k clusters, even
    if points coincide. If k = T, each point is a cluster, in order.

    Args:
        points: (T, D) finite numbers.
        k: number of clusters, 1 <= k <= T.
        iterations: upper bound; iteration stops when no point changes its cluster.

    Returns:
        (T,) int64 labels in [0, k), every cluster non-empty, and (k, D) fp64 centres, the means of the clusters.
    """
    points = points.double()
    if k == len(points):  # happens at generous budgets; the search would compute T * T distances
        return torch.arange(k, device=points.device), points
    centres = points[_farthest_first(points, k)]
    labels = torch.full((len(points),), -1, device=points.device)
    for _ in range(iterations):
        distance = _squared_distances(points, centres)
        new = _fill_empty(first_argmin(distance), distance, k)
        if torch.equal(new, labels):
            break
        labels = new
        centres = torch.zeros_like(centres).index_add_(0, labels, points)
        centres /= torch.bincount(labels, minlength=k)[:, None]
    return labels, centres


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Return (T, k) distances from differences, not the expanded square, so that equal points have distance 0."""
    return torch.stack([(points - centre).square().sum(-1) for centre in centres], dim=1)


def _farthest_first(points: Tensor, k: int) -> Tensor:
    """Return the (k,) rows of the initial centres; a row repeats only if there are fewer than k distinct points."""
    chosen = torch.zeros(k, dtype=torch.long, device=points.device)
    nearest = (points - points[0]).square().sum(-1)
    for i in range(1, k):
        chosen[i] = row = (nearest == nearest.max()).to(torch.uint8).argmax()
        nearest = torch.minimum(nearest, (points - points[row]).square().sum(-1))
    return chosen


def _fill_empty(labels: Tensor, distance: Tensor, k: int) -> Tensor:
    """Give each empty cluster the point farthest from its own centre, taken from clusters of at least two points."""
    counts = torch.bincount(labels, minlength=k)
    for cluster in (counts == 0).nonzero()[:, 0].tolist():
        own = distance.gather(1, labels[:, None])[:, 0]
        own = torch.where(counts[labels] > 1, own, -1)
        row = int((own == own.max()).to(torch.uint8).argmax())
        counts[labels[row]] -= 1
        labels[row] = cluster
        counts[cluster] += 1
    return labels
