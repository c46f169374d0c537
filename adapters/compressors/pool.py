"""Mean pooling over time and space at an exact token budget."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.merger import Merger
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.partition import split_cells, split_runs
from framefold.errors import ConfigError


class Pool(Merger):
    """Averages runs of consecutive frames position by position, optionally after averaging p x p tokens of each frame.

    Rule for an exact budget of k: each frame is split into C near-square rectangles (single tokens if ``spatial`` is
    1). The video is split into k // C runs of near-equal length, each of which gives C tokens. The rest of the budget
    is spent on one more run at the end, whose frames are split into as many larger rectangles. STORM (arXiv 2503.04130)
    trains an encoder before such pooling.

    Args:
        budget: retention ratio or tokens per video.
        spatial: side p of the rectangles that are averaged, in tokens; 1 pools over time only.

    Raises:
        ConfigError: ``spatial`` is less than 1.
    """

    name = "pool"
    keeps = "means over time and space"
    cost = "one pass over the tokens"

    def __init__(self, budget: Budget = 0.25, *, spatial: int = 1) -> None:
        super().__init__(budget)
        if spatial < 1:
            raise ConfigError(f"pool: spatial must be at least 1, got {spatial}")
        self.spatial = spatial

    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        frames, height, width = video.grid
        device = video.features.device
        cells = -(-height // self.spatial) * -(-width // self.spatial)
        cells = max(cells, -(-k // frames))  # a large budget needs smaller rectangles
        whole, rest = divmod(k, cells)
        run = self.runs(frames, whole + (rest > 0), device)
        groups = run[:, None] * cells + split_cells(height, width, cells, device)
        if rest:
            groups[run == whole] = whole * cells + split_cells(height, width, rest, device)
        groups[run < 0] = -1
        return groups.reshape(-1)

    def runs(self, frames: int, count: int, device: torch.device | None = None) -> Tensor:
        """Return the (T,) int64 run of each frame, in ascending order; -1 for frames that belong to no run."""
        return split_runs(frames, count, device)
