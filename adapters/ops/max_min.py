"""Greedy max-min selection: always the point farthest from those chosen so far, mostly without an n x n matrix.

Dimensions: B independent sets of n points of width D.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import threshold

from .selection import complement, first_argmax
from .similarity import normalize, rescale_if_extreme

Metric = Literal["cosine", "euclid"]

BLOCK = 256  # rows of a block of distances

SAME = 1e-6  # a smaller distance 1 - cosine is a rounding error of the product of two unit vectors

HASHED = 16  # leading coordinates that tell most points apart


class PointSet:
    """Points prepared for distances by matrix products, in fp32.

    Args:
        points: (n, D) fp32 points, see :meth:`prepare`.
        square: (n,) their squared norms.
        metric: "cosine" (half the squared distance of the unit vectors, i.e. 1 - cosine; a zero vector is compared as
            it is) or "euclid".
    """

    def __init__(self, points: Tensor, square: Tensor, metric: Metric) -> None:
        self.points, self.square, self.metric = points, square, metric

    @classmethod
    def prepare(cls, points: Tensor, metric: Metric) -> PointSet:
        """Prepare (n, D) finite points of any floating dtype.

        They are moved to their common mean, which changes no distance and avoids the cancellation of large squares.
        """
        x = rescale_if_extreme(points.detach()[None])[0].float()
        x = normalize(x, 1e-15) if metric == "cosine" else x.clone()
        x -= x.mean(0)
        return cls(x, torch.linalg.vector_norm(x, dim=-1).square(), metric)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: Tensor | slice) -> PointSet:
        return PointSet(self.points[rows], self.square[rows], self.metric)

    def squares(self, others: PointSet) -> Tensor:
        """Return the (n, O) squared distances to other points, which were prepared together with these."""
        product = self.points @ others.points.T
        return product.mul_(-2).add_(self.square[:, None]).add_(others.square).clamp_min_(0)

    def distance(self, squares: Tensor) -> Tensor:
        """Convert squared distances to the metric."""
        return squares / 2 if self.metric == "cosine" else squares.sqrt()

    @cached_property
    def key(self) -> Tensor:
        """(n,) int64 keys that are equal for equal points, see :func:`copy_keys`."""
        return copy_keys(self.points)


def copy_keys(x: Tensor) -> Tensor:
    """Return (n,) int64 keys of (n, D) fp32 rows that are equal for equal rows.

    Products of equal rows may be rounded differently, so equal values do not show copies. Two rows that differ share a
    key with a chance of about 1e-9.
    """
    key = _hash_bits(x[:, :HASHED])
    if x.shape[1] > HASHED:
        shared = has_copy(key).nonzero()[:, 0]
        key[shared] = torch.cat([_hash_bits(x[rows]) for rows in shared.split(BLOCK)])
    return key


def first_copies(key: Tensor) -> Tensor:
    """Return the (n,) int64 first row with the same key as each row."""
    _, inverse = torch.unique(key, return_inverse=True)
    rows = torch.arange(len(key), device=key.device)
    return torch.full_like(rows, len(key)).scatter_reduce_(0, inverse, rows, "amin")[inverse]


def _hash_bits(x: Tensor) -> Tensor:
    """Return (n,) int64 hashes of the bits of (n, D) fp32 rows; sums of integers do not depend on their order."""
    generator = torch.Generator().manual_seed(x.shape[1])
    factors = torch.randint(-(2**62), 2**62, x.shape[1:], generator=generator) * 2 + 1
    return ((x + 0.0).view(torch.int32) * factors.to(x.device)).sum(-1)  # + 0.0 because -0 has other bits than 0


def has_copy(key: Tensor) -> Tensor:
    """Return (n,) bool, whether an entry occurs more than once."""
    _, inverse, copies = torch.unique(key, return_inverse=True, return_counts=True)
    return copies[inverse] > 1


@torch.no_grad()
def max_min(
    points: Tensor, counts: Sequence[int], first: Sequence[int], metric: Metric, weight: Tensor | None = None
) -> Tensor:
    """Choose points greedily: the one whose least distance to those chosen is largest, times its weight.

    Chosen points are never chosen again, and ties go to the lower row. Once all remaining values are 0, because only
    copies of chosen points or points of weight 0 are left, the lowest rows follow. Sets do not affect each other.

    Args:
        points: (B, n, D) finite numbers.
        counts: B numbers of points to choose, each at most n.
        first: B rows that are chosen first.
        metric: see :class:`PointSet`.
        weight: (B, n) non-negative factors of the distance of a point to those chosen before it.

    Returns:
        (B, max(counts)) int64 rows in the order of choice; -1 beyond the count of a set.
    """
    counts, first = [int(count) for count in counts], [int(row) for row in first]
    out = torch.full((len(points), max(counts, default=0)), -1, device=points.device)
    with torch.autocast(points.device.type, enabled=False):
        for b, count in enumerate(counts):
            if count:
                one = PointSet.prepare(points[b], metric)
                out[b, :count] = farthest_points(one, count, first[b], None if weight is None else weight[b])
    return out


def farthest_points(points: PointSet, count: int, first: int, weight: Tensor | None = None) -> Tensor:
    """Choose as :func:`max_min` does, from one prepared set; returns (count,) int64 rows in the order of choice."""
    priority = torch.zeros_like(points.square) if weight is None else weight.float().clone()
    priority[first] = torch.inf
    rows = distinct_rows(points.key, priority)
    if len(rows) < len(points):
        weight = None if weight is None else weight[rows]
        picks = rows[_choose_distinct(points[rows], count, int((rows == first).nonzero()), weight)]
    else:
        picks = _choose_distinct(points, count, first, weight)
    rest = complement(picks, len(points))
    return torch.cat([picks, rest[: count - len(picks)]])


def distinct_rows(key: Tensor, priority: Tensor) -> Tensor:
    """Return, ascending, one row of each key: that of the highest priority, of equal ones the lowest."""
    order = torch.sort(priority, descending=True, stable=True).indices
    order = order[torch.sort(key[order], stable=True).indices]
    starts = torch.ones_like(key, dtype=torch.bool)
    starts[1:] = key[order][1:] != key[order][:-1]
    return order[starts].sort().values


def _choose_distinct(points: PointSet, count: int, first: int, weight: Tensor | None) -> Tensor:
    """Choose at most ``count`` rows of distinct points until all values are 0.

    The value of a point only falls as more points are chosen, so an outdated value is an upper bound. A turn updates a
    block of points with the highest bounds, and chooses among them as long as the best reaches the other bounds.
    """
    picks, count = [first], min(count, len(points))
    weight = torch.ones_like(points.square) if weight is None else weight.float()
    nearest = points.squares(points[first : first + 1])[:, 0]
    bound = (points.distance(nearest) * weight).index_fill_(0, torch.tensor(first, device=nearest.device), -1)
    updated = torch.ones_like(bound, dtype=torch.long)  # number of chosen points that a bound reflects
    while len(picks) < count and float(bound.max()) > 0:
        least = float(torch.topk(bound, min(BLOCK, len(bound))).values[-1])
        rows = (bound >= least).nonzero()[:, 0]
        block, near, factor, free = points[rows], nearest[rows], weight[rows], bound[rows] >= 0
        missing = torch.tensor(picks[int(updated[rows].min()) :], dtype=torch.long, device=rows.device)
        for part in missing.split(BLOCK):
            if len(part):
                near = torch.minimum(near, block.squares(points[part]).amin(1))
        while len(picks) < count:
            values = torch.where(free, points.distance(near) * factor, -1)
            best = float(values.max())
            if best < least or best <= 0:
                break
            row = int(first_argmax(values))
            picks.append(int(rows[row]))
            free[row] = False
            near = torch.minimum(near, block.squares(block[row : row + 1])[:, 0])
        nearest[rows], updated[rows] = near, len(picks)
        bound[rows] = torch.where(free, points.distance(near) * factor, -1)
    return torch.tensor(picks, device=bound.device)


@torch.no_grad()
def nearest_other(points: Tensor, metric: Metric) -> Tensor:
    """Return the (B, n) distance of each of (B, n, D) points to the nearest other point of its set.

    It is infinite in a set of one point, and exactly 0 for a point with a copy. Distances are computed in blocks.
    """
    out = points.new_empty(points.shape[:2], dtype=torch.float32)
    with torch.autocast(points.device.type, enabled=False):
        for target, one in zip(out, points, strict=True):
            prepared = PointSet.prepare(one, metric)
            for rows in torch.arange(len(one), device=one.device).split(BLOCK):
                target[rows] = prepared.distance(_squares_to_others(prepared, rows).amin(1))
            target[has_copy(prepared.key)] = 0
    return out


def most_isolated(points: PointSet, period: int = 1) -> int:
    """Return the row whose nearest other point is farthest; ties go to the lower row.

    The distances to a few points bound that to the nearest one. Blocks of the rows with the highest bounds are compared
    with all points, until no other bound reaches the highest distance found.

    Args:
        points: n points.
        period: rows that are a multiple of it apart bound each other first: choose it such that they are similar.
    """
    bound = torch.full_like(points.square, torch.inf)
    for offset in range(min(period, len(points))):
        for rows in torch.arange(offset, len(points), period, device=bound.device).split(BLOCK):
            near = points[rows].squares(points[rows])
            bound[rows] = near.fill_diagonal_(torch.inf).amin(1)
    bound.masked_fill_(has_copy(points.key), 0)
    exact = torch.zeros_like(bound, dtype=torch.bool)
    rows = torch.topk(bound, min(BLOCK, len(bound))).indices
    while len(rows):
        squares = _squares_to_others(points, rows)
        bound[rows] = torch.minimum(bound[rows], squares.amin(1))
        bound = torch.minimum(bound, squares.amin(0))
        exact[rows] = True
        best = bound[exact].max()
        rows = torch.topk(torch.where(exact, -1, bound), min(BLOCK, len(bound))).indices
        rows = rows[~exact[rows] & (bound[rows] >= best)]
    return int(first_argmax(bound))


def _squares_to_others(points: PointSet, rows: Tensor) -> Tensor:
    """Return (R, n) squared distances of rows to all points, infinite to themselves."""
    return points[rows].squares(points).scatter_(1, rows[:, None], torch.inf)


def max_min_of_cosines(cosine: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Choose as :func:`max_min` does, by distances 1 - cosine that are known, all sets at once.

    The first row is the one farthest from its nearest other row, times its weight. A distance below ``SAME`` counts as
    0.

    Args:
        cosine: (B, n, n) cosine similarities; the diagonal is overwritten.
        weight: (B, n) non-negative factors of the distances to each row.
        counts: (B,) int64 numbers of rows to choose, each at most n.

    Returns:
        (B, n) bool, the chosen rows.
    """
    sets = torch.arange(len(cosine), device=cosine.device)
    cosine.diagonal(dim1=1, dim2=2).fill_(-1)
    value = threshold(1 - cosine.amax(2), SAME, 0) * weight  # by the nearest other row, then by the nearest chosen row
    picks, nearest = [first_argmax(value)], torch.full_like(value, torch.inf)
    while len(picks) < int(counts.max()):
        distance = threshold(1 - cosine[sets, picks[-1]], SAME, 0)
        nearest = torch.minimum(nearest, distance.mul_(weight)).scatter_(1, picks[-1][:, None], -1)
        picks.append(first_argmax(nearest))
    order = torch.stack(picks, 1)
    wanted = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    return torch.zeros_like(value, dtype=torch.bool).scatter_(1, order, wanted)
