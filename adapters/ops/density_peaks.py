"""Density-peaks clustering (DPC-kNN), whose centres are dense and far from anything denser; groups as weighted sums.

Dimensions: B sets of n points, D width, c clusters; N tokens of a video in k groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .segments import weighted_segment_sum
from .selection import exact_topk, first_argmin

SAME = 1e-6  # squared distances below this part of the squared norms are rounding errors, and count as 0

ROWS = 512  # points that are clustered at a time, which fit the CPU cache


def scaled_distances(points: Tensor, scale: bool = True) -> Tensor:
    """Return the (B, n, n) Euclidean distances of the points of each set, in fp32 or wider.

    Sets are centred first, so that what all points have in common costs no precision. Distances are symmetric to the
    last digit, so that two points that are nearest to each other are equally dense among two neighbours.

    Args:
        points: (B, n, D) of moderate magnitude (:func:`~framefold.adapters.ops.similarity.rescale_if_extreme`).
        scale: divide by sqrt(D), as most releases do.
    """
    x = points.to(torch.promote_types(points.dtype, torch.float32))
    x = x - x.mean(1, keepdim=True)
    square = torch.linalg.vector_norm(x, dim=-1).square()
    both = square[:, :, None] + square[:, None]
    distance = torch.baddbmm(both, x, x.transpose(1, 2), alpha=-2)
    distance = torch.maximum(distance, distance.transpose(1, 2))
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
    absent = None if valid is None else ~(valid[:, :, None] & valid[:, None])
    largest = _fill(distance, absent, 0).flatten(1).amax(1)[:, None]
    near = _nearest(distance, absent, neighbours, include_self)
    there = near.isfinite()
    sparsity = near.masked_fill(~there, 0).square().sum(-1) / there.sum(-1).clamp(min=1)

    not_denser = sparsity[:, None] >= sparsity[:, :, None]
    if absent is not None:
        not_denser |= absent
    away = torch.minimum(distance.masked_fill(not_denser, torch.inf).amin(-1), largest)
    score = (away.log() - sparsity).clamp(min=torch.finfo(distance.dtype).min)
    return score if valid is None else score.masked_fill(~valid, -torch.inf)


def _nearest(distance: Tensor, absent: Tensor | None, neighbours: int, include_self: bool) -> Tensor:
    """Return the (B, n, m) lowest distances of each point, ascending."""
    count = min(neighbours, distance.shape[-1])
    distance = _fill(distance, absent, torch.inf)
    if not include_self:
        own = torch.eye(distance.shape[-1], dtype=torch.bool, device=distance.device)
        distance = distance.masked_fill(own, torch.inf)
    if distance.device.type == "cpu":  # NumPy's selection is vectorised: more than twice as fast as topk
        nearest = np.partition(distance.detach().numpy(), count - 1, axis=-1)[..., :count]
        return torch.from_numpy(np.sort(nearest, axis=-1))
    return distance.topk(count, dim=-1, largest=False).values


def _fill(values: Tensor, mask: Tensor | None, value: float) -> Tensor:
    return values if mask is None else values.masked_fill(mask, value)


@dataclass(frozen=True)
class Clusters:
    """Clusters of the points of a set.

    Attributes:
        centres: (c,) int64 points that represent the clusters.
        label: (n,) int64 cluster of each point; -1: none.
        weight: (n,) weight of each point in the feature of its cluster.
    """

    centres: Tensor
    label: Tensor
    weight: Tensor


def peak_clusters(
    points: Tensor,
    count: int,
    neighbours: int,
    scale: bool = True,
    include_self: bool = True,
    by_score: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cluster points around the highest density-peak scores; each point joins the nearest centre.

    Args:
        points: (n, D).
        count: number of clusters, 1 <= count <= n.
        neighbours, scale, include_self: see :func:`density_peaks` and :func:`scaled_distances`.
        by_score: centres in order of descending score instead of ascending places.

    Returns:
        (count,) int64 centres, and the (n,) int64 label of each point; ties go to the first centre.
    """
    if count == len(points) and not by_score:
        every = torch.arange(count, device=points.device)
        return every, every
    distance = scaled_distances(points[None], scale)
    score = density_peaks(distance, neighbours, include_self)[0]
    centres = torch.sort(score, descending=True, stable=True).indices[:count] if by_score else exact_topk(score, count)
    label = first_argmin(distance[0, :, centres])
    label[centres] = torch.arange(count, device=points.device)
    return centres, label


def cluster_sets(points: Tensor, sizes: Tensor, counts: Tensor, neighbours: int) -> Tensor:
    """Cluster each of many sets as :func:`peak_clusters` does, several sets of similar size at a time.

    Args:
        points: (n, D) points of all S sets, one set after the other.
        sizes: (S,) int64 number of points of each set.
        counts: (S,) int64 number of clusters of each set, between 1 and its size.
        neighbours: largest number of nearest points that densities take into account; fewer in a set of fewer clusters.

    Returns:
        (n,) int64 cluster of each point within its set.
    """
    label = torch.zeros(len(points), dtype=torch.long, device=points.device)
    start, near = sizes.cumsum(0) - sizes, counts.clamp(max=neighbours)
    order = torch.sort(near * (len(points) + 1) + sizes, descending=True, stable=True).indices
    while len(order):
        most, limit = int(sizes[order[0]]), int(near[order[0]])
        alike = (near[order] == limit) & (sizes[order] * 4 >= most * 3)
        sets = order[: max(1, min(int(alike.sum()), ROWS // most))]
        order = order[len(sets) :]
        place = torch.arange(most, device=points.device)
        valid = place < sizes[sets, None]
        rows = torch.where(valid, start[sets, None] + place, start[sets, None])
        label[rows[valid]] = _cluster_padded(points[rows], valid, counts[sets], limit)[valid]
    return label


def _cluster_padded(points: Tensor, valid: Tensor, counts: Tensor, neighbours: int) -> Tensor:
    """Return the (B, q) cluster of the valid points of each of B sets (B, q, D) with (B,) clusters."""
    distance = scaled_distances(points)
    order = torch.sort(density_peaks(distance, neighbours, valid=valid), dim=1, descending=True, stable=True).indices
    place = torch.arange(order.shape[1], device=order.device)
    centre = torch.zeros_like(valid).scatter_(1, order, place < counts[:, None])
    nearest = first_argmin(distance.masked_fill(~centre[:, None], torch.inf))
    return (centre.cumsum(1) - 1).gather(1, torch.where(centre, place, nearest))


def blended(centres: Tensor, label: Tensor, beta: float | None) -> Clusters:
    """Weight each centre with beta and the mean of the other points of its cluster with 1 - beta.

    Args:
        centres: (c,) int64.
        label: (n,) int64 in [0, c).
        beta: None weights all points of a cluster alike.
    """
    size = torch.bincount(label, minlength=len(centres)).float()
    if beta is None:
        return Clusters(centres, label, (1 / size)[label])
    weight = ((1 - beta) / (size - 1).clamp(min=1))[label]
    weight[centres] = torch.where(size > 1, beta, 1.0)
    return Clusters(centres, label, weight)


def blended_with_mean(centres: Tensor, label: Tensor, beta: float) -> Clusters:
    """Weight each centre with w = max(1 / size, beta), and the mean of its cluster, centre included, with 1 - w.

    Args:
        centres: (c,) int64.
        label: (n,) int64 in [0, c).
        beta: least weight of a centre.
    """
    size = torch.bincount(label, minlength=len(centres)).float()
    own = (1 / size).clamp(min=beta)
    weight = ((1 - own) / size)[label]
    weight[centres] += own
    return Clusters(centres, label, weight)


def keep_only(kept: Tensor, points: int) -> Clusters:
    """Return clusters of one point each; the other points of the set are dropped.

    Args:
        kept: (c,) int64 points, ascending.
        points: number of points of the set.
    """
    label = torch.full((points,), -1, device=kept.device)
    label[kept] = torch.arange(len(kept), device=kept.device)
    return Clusters(kept, label, torch.ones(points, device=kept.device))


def keep_and_cluster(kept: Tensor, others: Tensor, clusters: Clusters) -> Clusters:
    """Keep some points of a set unchanged, and cluster the others.

    Args:
        kept: (c',) int64 points.
        others: (n - c',) int64 points other than ``kept``.
        clusters: clusters of the others, which are numbered within ``others``.
    """
    out = keep_only(kept, len(kept) + len(others))
    out.label[others] = torch.where(clusters.label < 0, -1, clusters.label + len(kept))
    out.weight[others] = clusters.weight
    return Clusters(torch.cat([kept, others[clusters.centres]]), out.label, out.weight)


@dataclass
class WeightedGroups:
    """Groups of tokens of a video, whose features are weighted sums of their tokens.

    Attributes:
        group: (N,) int64 group of each token; -1: dropped.
        weight: (N,) weight of each token in its group.
        anchors: (k,) int64 token that represents each group.
    """

    group: Tensor
    weight: Tensor
    anchors: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @classmethod
    def empty(cls, tokens: int, device: torch.device) -> WeightedGroups:
        """Return no groups of the given number of tokens."""
        group = torch.full((tokens,), -1, device=device)
        return cls(group, torch.zeros(tokens, device=device), group[:0])

    @classmethod
    def means(cls, group: Tensor, first: Tensor) -> WeightedGroups:
        """Return groups whose features are means, represented by the given tokens."""
        return cls(group, (1 / torch.bincount(group, minlength=len(first)).float())[group], first)

    def add(self, rows: Tensor, clusters: Clusters) -> None:
        """Add the clusters of a set.

        Args:
            rows: (n, L) int64 tokens of each point, whose mean it is; the first one represents it.
            clusters: clusters of the points.
        """
        shift = len(self.anchors)
        self.group[rows] = torch.where(clusters.label < 0, -1, clusters.label + shift)[:, None]
        self.weight[rows] = clusters.weight[:, None] / rows.shape[1]
        self.anchors = torch.cat([self.anchors, rows[clusters.centres, 0]])

    def features(self, x: Tensor) -> Tensor:
        """Return the (k, D) weighted sums of (N, D) features, in fp32 or wider."""
        return weighted_segment_sum(x, self.weight, self.group, len(self.anchors))
