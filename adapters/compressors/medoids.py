"""Medoids: keep the central tokens of clusters in consecutive segments, CenterCLIP's rule (arXiv 2205.00823)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.merger import merge_at
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import proportional_parts
from framefold.adapters.ops.max_min import PointSet, distinct_rows, farthest_points
from framefold.adapters.ops.partition import split_runs
from framefold.adapters.ops.segments import segment_mean
from framefold.adapters.ops.selection import complement, first_argmax, first_argmin
from framefold.adapters.ops.similarity import rescale_if_extreme
from framefold.adapters.reference.centerclip import kmedoids
from framefold.errors import ConfigError, InputError

LARGEST_TABLE = 2048  # tokens of a segment whose distances are all stored: 16 MB

BLOCK = 256  # tokens of a block of clusters

PAPER_FRAMES = 2  # 12 frames become 6 in most of the release's scripts


class Medoids(Compressor):
    """Keeps the medoids of clusters of the tokens of each segment of consecutive frames. Training-free.

    A segment of n tokens gets a part of the budget in proportion to n. Its medoids start with the longest token, and
    then always the token farthest from those chosen (Euclidean distance). Then, repeatedly, each token joins the
    nearest medoid, and the token of a cluster with the least sum of distances to the others becomes its medoid, until
    nothing changes. The medoids are kept unchanged.

    ``exact`` keeps k tokens for any k. Ties go to the lower index. Equal tokens count as one with their number as
    weight; only if a segment has fewer distinct tokens than it must keep, the first of the others are kept, too.
    Distances are computed in fp32 from differences to the mean of the segment. A segment of up to 2,048 tokens stores
    its distances, so each round costs little. In a longer one, a round computes those to changed medoids and those
    inside clusters again, which takes several passes over the tokens for each percent of the budget.

    ``official`` follows the release: floor(k / S) tokens, at least one, of each of S segments of ``segment_frames``
    frames (2 if None), which must divide the number of frames. Equal tokens stay separate.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        segment_tokens: tokens that a segment gets if ``segment_frames`` is None: there are k // segment_tokens
            segments, at least one and of at least two frames, because at small budgets short segments leave no choice.
        segment_frames: frames of a segment, as in the paper, where it is 2 to 5; at most k segments.
        merge: replace each medoid by the mean of its cluster, at its position.
        norm: "raw" (the default of the release) or "unit": cluster the directions of the tokens; the first medoid is
            then the first token, because all lengths are equal.
        rounds: largest number of rounds; 0 keeps the initial medoids.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: ``official`` on a number of frames that ``segment_frames`` does not divide.
    """

    name = "medoids"
    paper = "CenterCLIP, arXiv 2205.00823"
    keeps = "central tokens of clusters in consecutive segments"
    cost = "distances between all tokens of a segment, and a few rounds of k-medoids"
    growth = "quadratic"  # with the length of a segment; linear in N if ``segment_frames`` or the ratio is fixed
    licence = "CC-BY-NC-4.0"
    deviations = (
        "derives the segments from the budget and divides it among them by size; segments need not divide the video "
        "evenly; weights equal tokens by their number instead of clustering them apart; no class token"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        segment_tokens: int = 6,
        segment_frames: int | None = None,
        merge: bool = False,
        norm: Literal["raw", "unit"] = "raw",
        rounds: int = 100,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official") or norm not in ("raw", "unit"):
            raise ConfigError(f"medoids: unknown value: {variant=}, {norm=}")
        if segment_tokens < 1 or segment_frames is not None and segment_frames < 1 or rounds < 0:
            raise ConfigError(f"medoids: out of range: {segment_tokens=}, {segment_frames=}, {rounds=}")
        self.variant, self.segment_tokens, self.segment_frames = variant, segment_tokens, segment_frames
        self.merge, self.norm, self.rounds = merge, norm, rounds
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        anchors, groups = self.clusters(video, k)
        if groups is None:
            return video.keep(anchors)
        means = segment_mean(video.features, video.size, groups, len(anchors))
        return merge_at(video, anchors, groups, means)

    @torch.no_grad()
    def clusters(self, video: VideoTokens, k: int) -> tuple[Tensor, Tensor | None]:
        """Return the medoids, ascending, and if ``merge`` the (N,) cluster of each token, -1 without a budget."""
        counts, sizes = self.parts(video, k)
        anchors, groups, first, row = [], torch.full_like(video.index, -1), 0, 0
        with torch.autocast(video.features.device.type, enabled=False):
            for size, count in zip(sizes, counts, strict=True):
                if count:
                    medoids, assign = self.segment(video.features[row : row + size], count)
                    anchors.append(medoids + row)
                    if assign is not None:
                        groups[row : row + size] = assign + first
                    first += len(medoids)
                row += size
        return torch.cat(anchors), groups if self.merge else None

    def parts(self, video: VideoTokens, k: int) -> tuple[list[int], list[int]]:
        """Return the number of tokens to keep of each segment, and its size.

        Raises:
            InputError: the segments of ``official`` do not divide the video.
        """
        frames = video.grid[0]
        if self.variant == "official":
            length = self.segment_frames or PAPER_FRAMES
            if frames % length:
                raise InputError(f"medoids: variant='official' needs a multiple of {length} frames, got {frames}")
            segments = frames // length
            size = length * video.per_frame
            return [min(max(1, k // segments), size)] * segments, [size] * segments
        if self.segment_frames is None:
            segments = min(max(1, k // self.segment_tokens), -(-frames // 2))
        else:
            segments = min(-(-frames // self.segment_frames), k)
        sizes = torch.bincount(split_runs(frames, segments)) * video.per_frame
        return proportional_parts(sizes, k).tolist(), sizes.tolist()

    def segment(self, x: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
        """Return the medoids of one segment, ascending, and if ``merge`` the (n,) cluster of each of its tokens."""
        x, rows = rescale_if_extreme(x[None])[0], torch.arange(len(x), device=x.device)
        if self.exact_budget and count == len(x):
            return rows, rows
        points = PointSet.prepare(x, "cosine" if self.norm == "unit" else "euclid")
        if self.variant == "official":
            medoids = kmedoids(x[None], count, pre_norm=self.norm == "unit", iter_limit=self.rounds)[1][0]
            return medoids, _assign(points.squares(points[medoids]), medoids)
        length = torch.linalg.vector_norm(x.float(), dim=-1)
        length = (length > 0).float() if self.norm == "unit" else length
        first = int(first_argmax(length))
        return k_medoids(points, count, first, self.rounds, self.merge)


def k_medoids(points: PointSet, count: int, first: int, rounds: int, join: bool = True) -> tuple[Tensor, Tensor | None]:
    """Cluster points around medoids as :class:`Medoids` describes.

    Args:
        points: n points of a segment.
        count: number of medoids, at most n.
        first: row of the first medoid.
        rounds: largest number of rounds.
        join: also return the clusters.

    Returns:
        (count,) int64 medoids, ascending, and if ``join`` the (n,) int64 cluster of each point.
    """
    rows = distinct_rows(points.key, torch.zeros_like(points.square))
    keys, place = points.key[rows].sort()
    copy_of = place[torch.searchsorted(keys, points.key)]  # (n,) place in ``rows`` of the first equal point
    distances = _Distances(points[rows] if len(rows) < len(points) else points)
    medoids = distances.farthest(min(count, len(rows)), int(copy_of[first]))
    weight = torch.bincount(copy_of, minlength=len(rows)).float()
    for _ in range(rounds if count < len(rows) else 0):
        own = _assign(distances.columns(medoids), medoids)
        before, medoids = medoids, _centres(distances.sums_within(own, weight), own, count)
        if torch.equal(before, medoids):
            break
    assign = _assign(distances.columns(medoids), medoids)[copy_of] if join else None
    return _add_copies(rows[medoids], assign, count, len(points))


def _add_copies(medoids: Tensor, assign: Tensor | None, count: int, n: int) -> tuple[Tensor, Tensor | None]:
    """Add the lowest other rows up to ``count``, each as a cluster of its own."""
    if len(medoids) == count:
        return medoids, assign
    rest = complement(medoids, n)
    every, order = torch.cat([medoids, rest[: count - len(medoids)]]).sort()
    if assign is not None:
        assign = torch.argsort(order)[assign]
        assign[every] = torch.arange(count, device=assign.device)
    return every, assign


def _assign(distance: Tensor, medoids: Tensor) -> Tensor:
    """Return the (n,) nearest of K medoids by (n, K) distances; ties go to the lower one, medoids to themselves."""
    nearest = first_argmin(distance)
    nearest[medoids] = torch.arange(len(medoids), device=nearest.device)
    return nearest


def _centres(sums: Tensor, assign: Tensor, count: int) -> Tensor:
    """Return, ascending, the row with the lowest sum of each cluster; of equal sums the lower row."""
    least = torch.full((count,), torch.inf, device=sums.device).scatter_reduce_(0, assign, sums, "amin")
    rows = torch.where(sums == least[assign], torch.arange(len(sums), device=sums.device), len(sums))
    return torch.full_like(rows[:count], len(sums)).scatter_reduce_(0, assign, rows, "amin").sort().values


def _table(points: PointSet) -> Tensor:
    """Return (n, n) distances, computed once for both directions, which products may round differently."""
    table = torch.zeros(len(points), len(points), device=points.square.device)
    step = max(BLOCK // 2, len(points) // 4)
    for start in range(0, len(points), step):
        table[start : start + step, start:] = points[start : start + step].squares(points[start:]).sqrt_()
    table.triu_(1)
    return table + table.T


class _Distances:
    """Euclidean distances between the points of a segment, stored if there are at most ``LARGEST_TABLE``."""

    def __init__(self, points: PointSet) -> None:
        self.points = points
        self.table: Tensor | None = None
        if len(points) <= LARGEST_TABLE:
            self.table = _table(points)
        self.medoids, self.known = points.square.new_empty(0, dtype=torch.long), points.points[:, :0]

    def farthest(self, count: int, first: int) -> Tensor:
        """Return ``count`` rows, ascending: the first one and then always the one farthest from those chosen."""
        if self.table is None:
            return farthest_points(self.points, count, first).sort().values
        chosen, nearest = [first], self.table[first].clone()
        for _ in range(count - 1):
            nearest[chosen[-1]] = -1
            chosen.append(int(first_argmax(nearest)))
            nearest = torch.minimum(nearest, self.table[chosen[-1]])
        return torch.tensor(chosen, device=nearest.device).sort().values

    def columns(self, medoids: Tensor) -> Tensor:
        """Return the (n, K) distances to medoids; those to the medoids of the previous call are computed once."""
        if self.table is not None:
            return self.table[:, medoids]
        out = self.points.square.new_empty(len(self.points), len(medoids))
        old = torch.isin(medoids, self.medoids)
        out[:, old] = self.known[:, torch.searchsorted(self.medoids, medoids[old])]
        new = medoids[~old]
        distance = self.points.squares(self.points[new]).sqrt_()
        distance[new, torch.arange(len(new), device=new.device)] = 0
        out[:, ~old] = distance
        self.medoids, self.known = medoids, out
        return out

    def sums_within(self, assign: Tensor, weight: Tensor) -> Tensor:
        """Return the (n,) weighted sums of the distances of each point to the points of its cluster."""
        if self.table is not None:
            return torch.where(assign[:, None] == assign, self.table, 0) @ weight
        sizes = torch.bincount(assign)
        order = torch.sort(assign, stable=True).indices
        block = ((sizes.cumsum(0) - sizes) // BLOCK)[assign[order]]  # clusters that start in the same block
        sums = torch.empty_like(weight)
        for rows in order.split(torch.unique_consecutive(block, return_counts=True)[1].tolist()):
            sums[rows] = torch.where(assign[rows, None] == assign[rows], _table(self.points[rows]), 0) @ weight[rows]
        return sums
