"""Deterministic k-means: the same clusters on every run, for few points exactly, for many points in blocks.

Dimensions of the latter: n points of width D, k clusters. The score of a point x and a centre c is x . c - |c|^2 / 2,
so that half their squared distance is |x|^2 / 2 minus the score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .max_min import PointSet, farthest_points
from .selection import first_argmax, first_argmin
from .similarity import TINY

ROWS = 1024  # points of a matrix product
MULTIPLE = 8  # number of centres in a matrix product is a multiple of this: others take half as long again


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
        nearest = first_argmin(distance)
        new = _fill_empty(nearest, distance.gather(1, nearest[:, None])[:, 0], k)
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
        chosen[i] = row = first_argmax(nearest)
        nearest = torch.minimum(nearest, (points - points[row]).square().sum(-1))
    return chosen


@torch.no_grad()
def block_kmeans(points: Tensor, k: int, rounds: int, directions: int = 0) -> Tensor:
    """Cluster many points into many clusters: as :func:`kmeans`, in fp32 and by matrix products.

    Seeds are point 0 and then, repeatedly, the point farthest from the seeds so far. If all points coincide with fewer
    than k seeds, copies become clusters of their own. A cluster that loses all its points gets the point farthest from
    its own centre. In each round, points are compared only with the clusters that have changed, as far as possible.

    Args:
        points: (n, D) fp32 numbers whose squares fit in fp32.
        k: number of clusters, 1 <= k <= n.
        rounds: upper bound on the updates of the centres; iteration stops when no point changes its cluster.
        directions: number of leading columns in which centres have length 1, as their points must (spherical k-means).

    Returns:
        (n,) int64 labels in [0, k), every cluster non-empty.
    """
    if k == len(points):
        return torch.arange(k, device=points.device)
    with torch.autocast(points.device.type, enabled=False):
        prepared = PointSet.prepare(points, "euclid")
        seeds = farthest_points(prepared, k, 0)[: len(prepared.key.unique())]
        half = points.square().sum(1) / 2
        score, labels = _best(points, points[seeds])
        labels = _fill_empty(labels, half - score, k)
        changed = torch.bincount(labels, minlength=k) > 1
        for _ in range(rounds if len(seeds) == k else 0):
            new, score = _reassign(points, _centres(points, labels, k, directions), labels, score, changed)
            new = _fill_empty(new, half - score, k)
            moved = new != labels
            if not bool(moved.any()):
                break
            changed = torch.zeros_like(changed)
            changed[new[moved]] = changed[labels[moved]] = True
            labels = new
    return labels


def _centres(points: Tensor, labels: Tensor, k: int, directions: int) -> Tensor:
    """Return the (k, D) means of the clusters, the first ``directions`` columns normalized."""
    means = points.new_zeros(k, points.shape[1]).index_add_(0, labels, points)
    means /= torch.bincount(labels, minlength=k)[:, None]
    lead = means[:, :directions]
    lead /= torch.linalg.vector_norm(lead, dim=1, keepdim=True).clamp_min(TINY)
    return means


def _best(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest score of each point and the first centre that has it."""
    bias = centres.square().sum(1) / 2
    if len(centres) > MULTIPLE:
        padding = -len(centres) % MULTIPLE
        centres = torch.nn.functional.pad(centres, (0, 0, 0, padding))
        bias = torch.nn.functional.pad(bias, (0, padding), value=torch.inf)
    found = [(rows @ centres.T).sub_(bias).max(1) for rows in points.split(ROWS)]
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def _reassign(points: Tensor, centres: Tensor, labels: Tensor, score: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best centre of each point and the score with it, given those of before some centres have changed.

    All points are compared with the centres that have changed. The others had at most the previous score, so they are
    compared only with points that had a centre which has changed and do not reach their previous score any more.
    """
    labels, before, lost = labels.clone(), score, changed[labels]
    score = score.masked_fill(lost, -torch.inf)

    def compare(rows: Tensor, clusters: Tensor) -> None:
        if len(rows) == 0 or len(clusters) == 0:
            return
        value, place = _best(points if len(rows) == len(points) else points[rows], centres[clusters])
        label, old = clusters[place], score[rows]
        better = (value > old) | (value == old) & (label < labels[rows])
        score[rows] = torch.where(better, value, old)
        labels[rows] = torch.where(better, label, labels[rows])

    compare(torch.arange(len(points), device=points.device), changed.nonzero()[:, 0])
    compare((lost & (score <= before)).nonzero()[:, 0], (~changed).nonzero()[:, 0])
    return labels, score


def _fill_empty(labels: Tensor, distance: Tensor, k: int) -> Tensor:
    """Give the empty clusters the points farthest from their own centres, but no cluster's last point.

    Equal to filling them one at a time: the points of a cluster leave it in the order of their distances, so the one
    that stays is the last one in that order.
    """
    count = torch.bincount(labels, minlength=k)
    empty = (count == 0).nonzero()[:, 0]
    if len(empty) == 0:
        return labels
    order = torch.sort(distance, descending=True, stable=True).indices
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    last = torch.zeros_like(count).scatter_reduce(0, labels, position, "amax")
    free = order[position[order] != last[labels[order]]]
    labels = labels.clone()
    labels[free[: len(empty)]] = empty
    return labels
