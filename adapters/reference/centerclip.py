"""Token clustering of CenterCLIP's release: k-medoids, spectral clustering and pooling of segments.

Dimensions: B independent segments of n tokens of width D, K clusters.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.ops.similarity import TINY, normalize

Distance = Literal["euclidean", "cosine"]


@torch.no_grad()
def kmedoids(
    points: Tensor,
    clusters: int,
    distance: Distance = "euclidean",
    pre_norm: bool = False,
    threshold: float = 1e-6,
    iter_limit: int = 100,
) -> tuple[Tensor, Tensor]:
    """Cluster each segment around medoids, starting with the longest token and then always the farthest one.

    The release subtracts the largest distance of the batch and one from all distances. This changes only their
    rounding, so it is left out. Rounding decides there which token of a pair is its medoid; here it is the first one.

    Args:
        points: (B, n, D) tokens.
        clusters: K.
        distance: metric of the assignment and of the sums that a medoid minimizes.
        pre_norm: divide tokens by their norms first; then the first medoid depends on rounding. Zero tokens, for
            which the release gives NaN, stay zero.
        threshold: stop when the total shift of the medoids of a segment is smaller.
        iter_limit: largest number of rounds.

    Returns:
        (B, n) int64 cluster of each token, and (B, K) int64 medoids, ascending.
    """
    points = points.float()
    if pre_norm:
        points = normalize(points, TINY)
    found = [_cluster(one, clusters, distance, threshold, iter_limit) for one in points]
    return torch.stack([assign for assign, _ in found]), torch.stack([medoids for _, medoids in found])


def _cluster(
    points: Tensor, clusters: int, distance: Distance, threshold: float, iter_limit: int
) -> tuple[Tensor, Tensor]:
    table = _distances(points, distance)
    medoids = _farthest_first(table, int(points.norm(dim=-1).argmax()), clusters)
    for _ in range(iter_limit):
        assign = table[:, medoids].argmin(1)
        sums = torch.where(assign[:, None] == assign, table, 0).sum(1)
        member = assign == torch.arange(clusters, device=assign.device)[:, None]  # (K, n)
        before, medoids = medoids, torch.where(member, sums, torch.inf).argmin(1)
        if (points[medoids] - points[before]).norm(dim=-1).sum() < threshold:
            break
    medoids = medoids.sort().values
    return table[:, medoids].argmin(1), medoids


def _distances(points: Tensor, distance: Distance) -> Tensor:
    """Return (n, n) distances; that of a token to itself is the least of its row, even if it has copies."""
    if distance == "euclidean":
        table = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        unit = normalize(points, TINY)
        table = 1 - unit @ unit.T
    return table - torch.eye(len(points), device=points.device)


def _farthest_first(table: Tensor, first: int, count: int) -> Tensor:
    chosen = [first]
    nearest = table[first].clone()
    while len(chosen) < count:
        nearest[chosen[-1]] = -torch.inf
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, table[chosen[-1]])
    return torch.tensor(chosen, device=table.device)


@torch.no_grad()
def spectral(
    points: Tensor,
    clusters: int,
    sigma: float = 2.0,
    neighbours: int | None = None,
    distance: Distance = "euclidean",
    threshold: float = 1e-6,
    iter_limit: int = 100,
) -> tuple[Tensor, Tensor]:
    """Cluster each segment by k-medoids of its spectral embedding.

    The affinity of two tokens is exp(-d^2 / (2 sigma^2)) for their Euclidean distance d. The embedding consists of the
    singular vectors of the K smallest singular values of the symmetric normalized Laplacian, with rows of length 1.
    The release corrects the signs of the vectors, on which neither distances nor norms depend.

    Args:
        points: (B, n, D) tokens.
        clusters: K.
        sigma: width of the affinity.
        neighbours: keep the affinity of a pair only if one is among so many nearest tokens of the other, itself
            included; None keeps all.
        distance: metric of the k-medoids.
        threshold: see :func:`kmedoids`.
        iter_limit: see :func:`kmedoids`.

    Returns:
        As :func:`kmedoids`.
    """
    points = points.float()
    square = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    affinity = torch.exp(-square / (2 * sigma**2))
    if neighbours is not None:
        near = affinity >= affinity.topk(neighbours, dim=-1).values[..., -1:]
        affinity = affinity * (near | near.mT)
    degree = affinity.sum(-1)
    scale = degree.rsqrt()
    laplacian = scale[:, :, None] * (torch.diag_embed(degree) - affinity) * scale[:, None]
    vectors = torch.linalg.svd(laplacian).U[..., -clusters:]
    embedding = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-6)
    return kmedoids(embedding, clusters, distance, threshold=threshold, iter_limit=iter_limit)


def cluster_means(points: Tensor, assign: Tensor, clusters: int) -> Tensor:
    """Return the (B, K, D) means of the clusters of (B, n, D) tokens; NaN for a cluster without tokens."""
    member = torch.nn.functional.one_hot(assign, clusters).to(points.dtype)
    return member.mT @ points / member.sum(1)[..., None]


def pool(frames: Tensor, segments: int) -> Tensor:
    """Return the (B, S, P, D) means over the frames of each of S equally long segments of (B, T, P, D) frames."""
    return frames.unflatten(1, (segments, -1)).mean(2)
