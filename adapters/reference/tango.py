"""The released code of Tango before the language model (arXiv 2604.09547; xjtupanda/Tango @ cc815b6).

Dimensions: T frames of P = H*W tokens, D width, n points of a set, k tokens returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from framefold.adapters.ops.density_peaks import (
    Clusters,
    WeightedGroups,
    blended_with_mean,
    keep_and_cluster,
    keep_only,
    peak_clusters,
)
from framefold.adapters.ops.selection import complement
from framefold.adapters.ops.similarity import normalize
from framefold.adapters.ops.windows import TokenSet, static_positions, still_windows

from .fastvid import segment_lengths
from .prunevid import run_windows

BASE_TIME, BASE_SPACE = 1e4, 1e3

STATIC = 0.8  # similarity of static positions, whatever tau is: the release does not hand tau on


@dataclass(frozen=True)
class TangoSettings:
    """Parameters of the release.

    Attributes:
        tau: similarity of still positions ("holitom") or of the means of consecutive frames ("fastvid").
        segment_type: rule for windows, named after the methods it is from.
        sections: channels that are rotated by time, row and column; they add up to D.
        times: coordinate of each frame; None: its number.
        base_time: base of the frequencies of the rotation by time.
        base_space: base of those by row and column.
        context_ratio: share of the tokens that are merged.
        alpha: candidates for each token that is selected by attention.
        neighbours: of the density, without the point itself.
        beta: least weight of an anchor in the feature of its group.
    """

    tau: float
    segment_type: Literal["holitom", "fastvid"] = "holitom"
    sections: tuple[int, int, int] | None = None
    times: tuple[float, ...] | None = None
    base_time: float = BASE_TIME
    base_space: float = BASE_SPACE
    context_ratio: float = 0.4
    alpha: float = 1.5
    neighbours: int = 7
    beta: float = 0.6


@dataclass(frozen=True)
class ReleasedTango:
    """What the release computes of a video.

    Attributes:
        roped: (T, P, D) rotated unit vectors.
        groups: the output tokens; merged values stand at the places of other anchors, as in the release.
    """

    roped: Tensor
    groups: WeightedGroups


@torch.no_grad()
def tango_as_released(
    features: Tensor, attention: Tensor, grid: tuple[int, int], ratio: float, settings: TangoSettings
) -> ReleasedTango:
    """Form the groups of the release; the number of tokens follows from the ratio and the video.

    Args:
        features: (T, P, D).
        attention: (T, P) received attention; 0 at attention sinks.
        grid: (H, W).
        ratio: retention ratio.
        settings: parameters.
    """
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    times = torch.arange(len(x), dtype=x.dtype) if settings.times is None else torch.tensor(settings.times)
    roped = rotate(normalize(x, 1e-12), times.to(x), grid, settings)
    similarity = cosine_similarity(x[:-1], x[1:], dim=-1)
    windows = _windows(x, similarity, settings)
    static = static_positions(windows, similarity > STATIC)
    release = _Release(roped, attention, settings, WeightedGroups.empty(x.shape[0] * x.shape[1], x.device))
    for (first, last), joined in zip(windows.tolist(), static, strict=True):
        release.add_window(first, last, joined, ratio)
    return ReleasedTango(roped, release.groups)


def _windows(x: Tensor, similarity: Tensor, settings: TangoSettings) -> Tensor:
    if settings.segment_type == "holitom":
        return still_windows(similarity > settings.tau)[0]
    means = x.mean(1)
    frames = cosine_similarity(means[:-1], means[1:], dim=-1)
    return run_windows([(0, length) for length in segment_lengths(frames, min(8, len(x)), settings.tau)])


@dataclass
class _Release:
    """The sets of a video, reduced one after the other."""

    roped: Tensor
    attention: Tensor
    settings: TangoSettings
    groups: WeightedGroups

    def add_window(self, first: int, last: int, static: Tensor, ratio: float) -> None:
        frames, positions = last - first + 1, len(static)
        if frames > 1:
            left = (frames * positions - (frames - 1) * int(static.sum())) / (frames * positions)
            ratio = min(ratio / left, 1)
        joined = TokenSet(first, last, (static if frames > 1 else ~static).nonzero()[:, 0], True)
        self._add_joined(joined, ratio)
        if frames > 1:
            self._add_frames(first, last, (~static).nonzero()[:, 0], ratio)

    def _add_joined(self, tokens: TokenSet, ratio: float) -> None:
        """Reduce the tokens of one frame, or the means of static positions with the rotation of their first frame."""
        size = len(tokens.positions)
        if size == 0:
            return
        count = max(1, math.ceil(size * ratio))
        select = int(count * (1 - self.settings.context_ratio))
        points = self.roped[tokens.first, tokens.positions]
        kept = self._salient(points, tokens.points(self.attention), select)
        self._add(tokens.rows(self.attention.shape[1]), points, kept, count - select)

    def _add_frames(self, first: int, last: int, positions: Tensor, ratio: float) -> None:
        """Select tokens in each frame, and merge those of all frames of the window together."""
        size, frames = len(positions), last - first + 1
        count = math.ceil(size * ratio)
        select = int(count * (1 - self.settings.context_ratio))
        kept = [
            self._salient(self.roped[first + t, positions], self.attention[first + t, positions], select) + t * size
            for t in range(frames)
        ]
        tokens = TokenSet(first, last, positions, False)
        rows = tokens.rows(self.attention.shape[1])
        self._add(rows, tokens.points(self.roped), torch.cat(kept), (count - select) * frames)

    def _salient(self, points: Tensor, attention: Tensor, count: int) -> Tensor:
        return salient_points(points, attention, count, self.settings.alpha, self.settings.neighbours)

    def _add(self, rows: Tensor, points: Tensor, kept: Tensor, context: int) -> None:
        others = complement(kept, len(points))
        if context >= len(others):
            merged = keep_only(torch.arange(len(others), device=others.device), len(others))
        elif context == 0:
            merged = keep_only(others[:0], len(others))
        else:
            merged = _misplaced(points[others], context, self.settings)
        if len(points):
            self.groups.add(rows, keep_and_cluster(kept, others, merged))


def _misplaced(points: Tensor, count: int, settings: TangoSettings) -> Clusters:
    """Merge points as the release: values in order of the places of anchors, but anchors in order of their scores."""
    neighbours = min(settings.neighbours, len(points) - 1)
    centres, label = peak_clusters(points, count, neighbours, scale=False, include_self=False, by_score=True)
    merged = blended_with_mean(centres, label, settings.beta)
    rank = torch.empty_like(centres)
    rank[torch.sort(centres).indices] = torch.arange(count, device=centres.device)
    return Clusters(centres, rank[label], merged.weight)


def salient_points(points: Tensor, attention: Tensor, count: int, alpha: float, neighbours: int) -> Tensor:
    """Select the most attended point of each cluster of the most attended points.

    Args:
        points: (n, D).
        attention: (n,).
        count: number of clusters.
        alpha: candidates per cluster; the int(alpha * count) most attended points are clustered.
        neighbours: of the density, without the point itself.

    Returns:
        (count,) int64 points, in no particular order; fewer if there are not enough candidates.
    """
    candidates = torch.sort(attention, descending=True, stable=True).indices[: int(alpha * count)]
    if len(candidates) <= max(count, 1):
        return candidates
    neighbours = min(neighbours, len(candidates) - 1)
    _, label = peak_clusters(points[candidates], count, neighbours, scale=False, include_self=False)
    first = torch.full((count,), len(candidates), device=label.device)
    order = torch.arange(len(candidates), device=label.device)
    return candidates[first.scatter_reduce(0, label, order, "amin")]


def rotate(units: Tensor, times: Tensor, grid: tuple[int, int], settings: TangoSettings) -> Tensor:
    """Rotate (T, P, D) vectors by time, row and column, each in its own section of channels (ST-RoPE).

    Args:
        units: the vectors.
        times: (T,) coordinate of each frame.
        grid: (H, W).
        settings: sections and bases.
    """
    sections = settings.sections or default_sections(units.shape[-1])
    place = torch.arange(units.shape[1], device=units.device).to(units.dtype)
    rows, columns = torch.div(place, grid[1], rounding_mode="floor"), place % grid[1]
    axes = (
        (times[:, None], settings.base_time),
        (rows[None], settings.base_space),
        (columns[None], settings.base_space),
    )
    parts = []
    for part, (coordinate, base) in zip(units.split(sections, dim=-1), axes, strict=True):
        parts.append(rotate_half(part, coordinate[..., None] * frequencies(part.shape[-1], base, units)))
    return torch.cat(parts, dim=-1)


def default_sections(width: int) -> tuple[int, int, int]:
    """Return the channels for time, row and column: about a third each, even numbers for rows and columns."""
    space = width // 6 * 2
    return width - 2 * space, space, space


def frequencies(channels: int, base: float, like: Tensor) -> Tensor:
    """Return the (channels // 2,) frequencies of a rotary encoding, in the dtype and on the device of a tensor."""
    half = channels // 2
    return base ** -(torch.arange(half, device=like.device).to(like.dtype) / max(half, 1))


def rotate_half(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate pairs of channels i and i + h by (..., h) angles; the last of an odd number of channels stays."""
    half = angle.shape[-1]
    a, b, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([*turn(a, b, angle.cos(), angle.sin()), rest], dim=-1)


def turn(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate the vectors (a, b) of a plane."""
    return a * cos - b * sin, b * cos + a * sin
