"""Fewer frames for a compressor: several times as many as fit into its budget without compression.

Dimensions: T frames, N visual tokens of a video.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import ceil, prod

import torch
from torch import Tensor, nn

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.partition import even_positions
from framefold.errors import BudgetError

Grid = tuple[int, int, int]


def frames_for(grid: Grid, budget: Budget, times: int) -> int:
    """Return the number of frames whose tokens are ``times`` those of the budget.

    Raises:
        BudgetError: the video has fewer frames.
    """
    frames = ceil(times * budget_tokens(budget, prod(grid)) / prod(grid[1:]))
    if frames > grid[0]:
        raise BudgetError(f"{times} times the frames of the budget are {frames}, and a video has {grid[0]}")
    return frames


def check_frames(grids: Iterable[Grid], budget: Budget, times: int) -> None:
    """Check that videos have enough frames.

    Raises:
        BudgetError: one has not.
    """
    for grid in grids:
        frames_for(grid, budget, times)


class FewerFrames(nn.Module):
    """Gives a compressor evenly spaced frames only, and the budget of the complete video.

    Towers of the supported hosts encode each step of the token grid alone, so the tokens of the frames are those that a
    shorter video would have. They keep their places in the complete video.

    Args:
        compressor: compressor of the frames; its budget is set in each call.
        budget: budget of the complete video.
        times: number of frames, in those that the budget could hold without compression.
    """

    def __init__(self, compressor: Compressor, budget: Budget, times: int) -> None:
        super().__init__()
        self.compressor, self.budget, self.times = compressor, budget, times
        self.query_aware, self.needs_query = compressor.query_aware, compressor.needs_query
        self.needs_attention = compressor.needs_attention

    def tower_share(self, tokens: VideoTokens) -> float:
        """Return the share of a tower's work that these frames need."""
        return frames_for(tokens.grid, self.budget, self.times) / tokens.grid[0]

    def forward(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        """Compress the frames of one dense video."""
        count = frames_for(video.grid, self.budget, self.times)
        shown = even_positions(video.grid[0], count, video.features.device)
        attention = None if video.attention is None else video.attention.view(video.grid)[shown]
        part = VideoTokens.from_grid(video.as_grid()[shown], video.times[shown], attention)
        self.compressor.budget = budget_tokens(self.budget, len(video))
        tokens = self.compressor(part, query).tokens
        cells = torch.arange(video.per_frame, device=shown.device)
        places = (shown[:, None] * video.per_frame + cells).reshape(-1)  # of the originals of the part
        assign = torch.full((len(video),), -1, dtype=torch.long, device=shown.device)
        assign[places] = tokens.assign
        return Compressed(
            replace(
                tokens,
                grid=video.grid,
                index=places[tokens.index],
                assign=assign,
                times=video.times,
                attention=video.attention,
            )
        )
