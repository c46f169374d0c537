"""Tango: still positions are joined, tokens selected by attention and merged by rotary distances (arXiv 2604.09547)."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.window_merger import WindowMerger
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import even_counts
from framefold.adapters.ops.density_peaks import (
    Clusters,
    WeightedGroups,
    blended_with_mean,
    keep_and_cluster,
    keep_only,
    peak_clusters,
)
from framefold.adapters.ops.selection import complement
from framefold.adapters.ops.similarity import TINY, normalize, rescale_if_extreme
from framefold.adapters.ops.windows import TokenSet, still_tiling
from framefold.adapters.reference.holitom import script_threshold
from framefold.adapters.reference.tango import (
    BASE_SPACE,
    BASE_TIME,
    TangoSettings,
    default_sections,
    frequencies,
    rotate_half,
    salient_points,
    tango_as_released,
    turn,
)
from framefold.errors import ConfigError, InputError


class Tango(WindowMerger):
    """Joins still positions, selects tokens by attention from clusters of candidates, and merges others. Training-free.

    The part of Tango before the language model, a recombination of HoliTom and FastVID. Windows and still positions are
    those of :class:`~framefold.adapters.compressors.holitom.HoliTom`, and ``exact`` follows
    :class:`~framefold.adapters.base.window_merger.WindowMerger`. Of the share of a set,

    - 1 - ``context_ratio`` is selected: the most attended tokens, ``candidate_ratio`` times as many as needed, are
      clustered, and the most attended one of each cluster is kept unchanged;
    - the others are merged: those with the highest density-peak scores become anchors, which the remaining tokens join.

    Distances are between normalized tokens whose channels are rotated by their position, a third each by time, row and
    column. Tokens that are not still are merged together with those of the next frames of their window, as long as they
    are no more than the tokens of one frame.

    ``official`` gives the result of the release, see
    :func:`~framefold.adapters.reference.tango.tango_as_released`. There, the tokens of all frames of a window are
    merged together, and merged values stand at the places of other anchors of their window.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        tau: cosine similarity of a position with the next frame above which it is still; None: 0.65 below a ratio of
            0.15 and 0.8 from there, as in the scripts of the release.
        context_ratio: share of the tokens that are merged.
        candidate_ratio: candidates for each token that is selected.
        beta: least weight of an anchor in the feature of its group.
        neighbours: nearest points that determine the density.
        sinks: positions of a frame whose attention is ignored; the release has those of SigLIP, (28, 27, 41, 169, 11,
            12) of 14 x 14.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: a sink is not a position of the frame.
    """

    name = "tango"
    paper = "Tango, arXiv 2604.09547"
    keeps = "attended tokens of different kinds, merged tokens, and still positions joined over windows of frames"
    cost = "a few passes over the tokens, and the distances within each frame"
    licence = "Apache-2.0"
    deviations = (
        "one ratio, at which rounding up gives the budget, for all windows; tau also applies to still positions, "
        "where the release always uses 0.8; merges the tokens of a window together only up to the number of tokens "
        "of a frame, which keeps the time linear; merged values stand at the places of their own anchors"
    )
    needs_attention = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        tau: float | None = None,
        context_ratio: float = 0.4,
        candidate_ratio: float = 1.5,
        beta: float = 0.6,
        neighbours: int = 7,
        sinks: tuple[int, ...] = (),
    ) -> None:
        super().__init__(budget, variant=variant)
        if not (0 <= context_ratio <= 1 and candidate_ratio >= 1 and 0 <= beta <= 1 and neighbours >= 1):
            raise ConfigError(
                "tango: context_ratio and beta must be between 0 and 1, candidate_ratio and neighbours at least 1, got"
                f" {context_ratio}, {beta}, {candidate_ratio}, {neighbours}"
            )
        self.tau, self.context_ratio, self.candidate_ratio, self.beta = tau, context_ratio, candidate_ratio, beta
        self.neighbours, self.sinks = neighbours, sinks

    def windows(self, x: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor | None]:
        return still_tiling(x, script_threshold(self.tau, ratio))

    def set_points(self, video: VideoTokens) -> int:
        return video.per_frame

    def head_start(self, tokens: TokenSet) -> float:
        return 1.0 if tokens.is_static else tokens.last - tokens.first + 1.0  # each frame is rounded up, as released

    def reduce(self, tokens: TokenSet, x: Tensor, video: VideoTokens, count: int) -> Clusters:
        points = self._points(tokens, x, video)
        frames = self._attention(video, tokens.first, tokens.last)
        attention = replace(tokens, first=0, last=tokens.last - tokens.first).points(frames)
        size = len(tokens.positions)
        selected = even_counts(int(count * (1 - self.context_ratio)), len(tokens) // size).tolist()
        kept = torch.cat([
            salient_points(frame, received, number, self.candidate_ratio, self.neighbours) + t * size
            for t, (frame, received, number) in enumerate(
                zip(points.split(size), attention.split(size), selected, strict=True)
            )
        ])  # fmt: skip
        others, count = complement(kept, len(points)), count - len(kept)
        if count == 0:
            return keep_and_cluster(kept, others, keep_only(others[:0], len(others)))
        neighbours = min(self.neighbours, len(others) - 1)
        centres, label = peak_clusters(points[others], count, neighbours, scale=False, include_self=False)
        return keep_and_cluster(kept, others, blended_with_mean(centres, label, self.beta))

    def official(self, video: VideoTokens, ratio: float) -> WeightedGroups:
        x = rescale_if_extreme(video.features.reshape(video.grid[0], video.per_frame, -1), max_exponent=33)
        settings = TangoSettings(
            script_threshold(self.tau, ratio),
            times=tuple(video.times.tolist()),
            context_ratio=self.context_ratio,
            alpha=self.candidate_ratio,
            neighbours=self.neighbours,
            beta=self.beta,
        )
        return tango_as_released(x, self._attention(video, 0, len(x) - 1), video.grid[1:], ratio, settings).groups

    def _attention(self, video: VideoTokens, first: int, last: int) -> Tensor:
        """Return the (frames, P) received attention from one frame to another, 0 at the sinks."""
        if any(not 0 <= sink < video.per_frame for sink in self.sinks):
            raise InputError(f"tango: a frame has {video.per_frame} positions: sinks {self.sinks} must be among them")
        assert video.attention is not None
        attention = video.attention.reshape(-1, video.per_frame)[first : last + 1].float()
        return attention.index_fill(1, torch.tensor(self.sinks, dtype=torch.long, device=attention.device), 0)

    def _points(self, tokens: TokenSet, x: Tensor, video: VideoTokens) -> Tensor:
        """Return the (n, D) rotated unit vectors of a set; those of static positions are from their first frame."""
        last = tokens.first if tokens.is_static else tokens.last
        span = TokenSet(tokens.first, last, tokens.positions, False)
        units = normalize(span.points(x), TINY).view(last - tokens.first + 1, len(tokens.positions), -1)
        cos, sin = (table[tokens.positions] for table in _rotation(*video.grid[1:], x.shape[-1], x.device))
        half = cos.shape[-1]
        time = units.shape[-1] - 4 * half
        pairs = units[..., time:].unflatten(-1, (2, 2, half))  # row or column, half of the section
        a, b = pairs.unbind(3)
        pairs[..., 0, :], pairs[..., 1, :] = turn(a, b, cos, sin)
        if len(units) > 1:  # in one frame, this would change no distance
            seconds = video.times[tokens.first : last + 1, None, None] - video.times[tokens.first]
            units[..., :time] = rotate_half(units[..., :time], seconds * frequencies(time, BASE_TIME, units))
        return units.flatten(0, 1)


@lru_cache(maxsize=1)
def _rotation(height: int, width: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (P, 2, h) cosines and sines of the angles of rows and columns."""
    place = torch.arange(height * width, device=device)
    places = torch.stack([place // width, place % width], dim=1).float()
    angle = places[..., None] * frequencies(default_sections(channels)[1], BASE_SPACE, places)
    return angle.cos(), angle.sin()
