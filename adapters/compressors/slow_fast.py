"""Slow-fast pooling: many frames at one token each, and a few frames at many tokens (LITA, arXiv 2403.19046)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.allocation import even_counts
from framefold.adapters.ops.partition import even_positions, split_cells, split_runs
from framefold.adapters.ops.segments import segment_mean, segment_median, segment_sum
from framefold.adapters.ops.selection import complement
from framefold.adapters.reference.slow_fast import LITA_STRIDE, lita_slow_frames
from framefold.errors import ConfigError


class SlowFast(Compressor):
    """Keeps the means of all frames, and the parts of a few evenly spaced frames. Training-free.

    ``exact`` keeps k tokens for any k:

    1. ``fast_share`` * k tokens, at least one and at most T, are means of runs of frames of near-equal length.
    2. The rest are means of near-square rectangles of evenly spaced slow frames, about P / 4 rectangles each: 2 x 2
       tokens, as published. If even T frames of P / 4 rectangles are too few, the rectangles are smaller.
    3. If k = N, all tokens are kept as they are.

    ``official`` gives the T + P tokens of LITA, whatever the budget: the mean of each frame, and squares of 2 x 2
    tokens of four frames. A row or column that fills no square is in the mean of its frame only. If there are fewer
    than four frames, all are slow, once each; the release repeats them.

    An original token of a slow frame counts as represented (``assign``, ``size``) by its rectangle, although the mean
    of its run contains it too. A fast token is anchored in the middle of the middle frame of its run, or at the next
    place that is no other anchor, which it represents. The release places all fast tokens first.

    Args:
        budget: retention ratio or tokens per video; ``official`` ignores it.
        variant: "exact" for the rule above, "official" for the release.
        fast_share: part of the budget that is spent on runs of frames; LITA spends 100 of 356 tokens.

    Raises:
        ConfigError: an unknown variant, or ``fast_share`` is not in (0, 1].
    """

    name = "slow_fast"
    paper = "LITA, arXiv 2403.19046"
    keeps = "means of frames, and means of rectangles of a few evenly spaced frames"
    cost = "one pass over the tokens"
    licence = "LicenseRef-NVIDIA-noncommercial"
    deviations = (
        "meets the budget by runs of frames and by more or fewer slow frames; tokens are in the order of the video"
    )

    def __init__(
        self, budget: Budget = 0.25, *, variant: Literal["exact", "official"] = "exact", fast_share: float = 0.28
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"slow_fast: variant must be 'exact' or 'official', got {variant!r}")
        if not 0 < fast_share <= 1:
            raise ConfigError(f"slow_fast: fast_share must be in (0, 1], got {fast_share}")
        self.variant, self.fast_share = variant, fast_share
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        frames, device = video.grid[0], video.features.device
        if not self.exact_budget:
            slow = torch.tensor(sorted(set(lita_slow_frames(frames))), device=device)
            return _tokens(video, torch.arange(frames, device=device), slow, _squares(video.grid, len(slow), device))
        if k == len(video):
            return video
        runs = min(frames, max(1, round(self.fast_share * k)))
        count = min(frames, max(1, (k - runs) // max(1, video.per_frame // 4))) if k > runs else 0
        cells = _rectangles(video.grid, k - runs, count, device)
        return _tokens(video, split_runs(frames, runs, device), even_positions(frames, count, device), cells)


def _rectangles(grid: tuple[int, int, int], total: int, frames: int, device: torch.device) -> Tensor:
    """Split some frames into rectangles; returns (S, P) int64 numbers below ``total``, consecutive in each frame."""
    out, first = torch.empty(frames, grid[1] * grid[2], dtype=torch.long, device=device), 0
    counts = even_counts(total, frames).tolist() if frames else []
    for places, count in zip(out, counts, strict=True):
        places.copy_(split_cells(*grid[1:], count, device) + first)
        first += count
    return out


def _squares(grid: tuple[int, int, int], frames: int, device: torch.device) -> Tensor:
    """Split some frames into squares of 2 x 2 tokens; returns (S, P) int64, -1 for places that fill none."""
    _, height, width = grid
    row, column = (torch.arange(side, device=device) // LITA_STRIDE for side in (height, width))
    rows, columns = height // LITA_STRIDE, width // LITA_STRIDE
    inside = (row < rows)[:, None] & (column < columns)
    square = (row[:, None] * columns + column) + rows * columns * torch.arange(frames, device=device)[:, None, None]
    return torch.where(inside, square, -1).flatten(1)


def _tokens(video: VideoTokens, run: Tensor, slow: Tensor, cells: Tensor) -> VideoTokens:
    """Return the means of runs of frames and of the cells of slow frames, ordered by their anchors.

    Args:
        video: a dense video.
        run: (T,) int64 run of each frame, ascending.
        slow: (S,) int64 slow frames, ascending.
        cells: (S, P) int64 number of the slow token to which each place belongs; -1 if it belongs to none.
    """
    per_frame, device = video.per_frame, run.device
    runs, count = int(run[-1]) + 1, int(cells.max()) + 1 if cells.numel() else 0
    rows = (slow[:, None] * per_frame + torch.arange(per_frame, device=device)).reshape(-1)
    slow_anchors = rows[segment_median(cells.reshape(-1), count)] if count else rows[:0]
    fast_anchors = _free_places(segment_median(run, runs) * per_frame + per_frame // 2, slow_anchors, len(video))
    anchors = torch.cat([fast_anchors, slow_anchors])
    order = torch.sort(anchors).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=device)

    assign = rank[run].repeat_interleave(per_frame)
    inside = cells.reshape(-1) >= 0
    assign[rows[inside]] = rank[runs + cells.reshape(-1)[inside]]
    assign[anchors] = rank
    weights = video.size.view(-1, per_frame)
    means = _frame_means(video.as_grid().flatten(1, 2), weights)
    features = [segment_mean(means, weights.sum(1), run, runs)]
    if count:
        cell_means = segment_mean(video.features[rows], video.size[rows], cells.reshape(-1), count)
        features.append(cell_means.to(means.dtype))
    return replace(
        video,
        features=torch.cat(features)[order].to(video.features.dtype),
        index=anchors[order],
        size=segment_sum(video.size, assign, len(order)),
        assign=assign,
    )


def _frame_means(frames: Tensor, weights: Tensor) -> Tensor:
    """Return the (T, D) weighted means of (T, P, D) frames, in fp32 or wider."""
    wide = torch.promote_types(frames.dtype, torch.float32)
    share = weights.to(wide)[..., None] / weights.sum(1)[:, None, None]
    return torch.stack([(frame.to(wide) * part).sum(0) for frame, part in zip(frames, share, strict=True)])


def _free_places(wanted: Tensor, taken: Tensor, n: int) -> Tensor:
    """Return distinct places that are not taken: each wanted one, the next free one, or one of the last.

    Args:
        wanted: (m,) int64 ascending.
        taken: (j,) int64, where m + j <= n.
        n: number of places.
    """
    free = complement(taken, n)
    ids = torch.arange(len(wanted), device=wanted.device)
    position = (torch.searchsorted(free, wanted) - ids).cummax(0).values + ids
    return free[torch.minimum(position, len(free) - len(wanted) + ids)]
