"""Smaller frames instead of compression: as many tokens as a budget allows, each for a larger part of a frame.

Dimensions: T frames, H x W grid of the host, A x B cells of a smaller frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.partition import even_positions, split_runs
from framefold.errors import BudgetError

Grid = tuple[int, int, int]


def smaller_frame(grid: Grid, rows: int) -> tuple[int, int]:
    """Return the (A, B) cells of a frame with this number of rows and the aspect of the grid."""
    _, height, width = grid
    return rows, max(1, round(rows * width / height))


def fitting_rows(grids: Iterable[Grid], budget: Budget) -> int:
    """Return the smallest number of rows with which the frames of every video have at least its tokens."""
    found = [next(rows for rows in range(1, grid[1] + 1) if _fits(grid, budget, rows)) for grid in grids]
    return max(found)


def _fits(grid: Grid, budget: Budget, rows: int) -> bool:
    return grid[0] * prod(smaller_frame(grid, rows)) >= budget_tokens(budget, prod(grid))


def check_fits(grids: Iterable[Grid], budget: Budget, rows: int) -> None:
    """Check that videos have enough frames of this number of rows for a budget.

    Raises:
        BudgetError: one has not.
    """
    for grid in grids:
        if not _fits(grid, budget, rows):
            most = grid[0] * prod(smaller_frame(grid, rows))
            raise BudgetError(
                f"{grid[0]} frames of {' x '.join(map(str, smaller_frame(grid, rows)))} tokens have {most}, fewer than "
                f"the budget's {budget_tokens(budget, prod(grid))}"
            )


class Resized:
    """Evenly spaced frames of A x B tokens instead of H x W ones, up to an exact budget.

    The frames must have been encoded from pixels of the smaller size. A host whose tower takes one size gets them
    enlarged to that size, and each token is the mean of the host's cells that it covers. Whole frames are kept, and the
    rest of the budget as evenly spaced tokens of one more frame, as ``uniform`` does.

    Args:
        budget: retention ratio of the tokens of the large frames, or tokens per video.
        rows: A; the aspect of a frame is preserved. A mapping from (H, W) has the A of frames of each size.
    """

    query_aware = needs_attention = False

    def __init__(self, budget: Budget, rows: int | Mapping[tuple[int, int], int]) -> None:
        self.budget, self.rows = budget, rows

    def cells(self, grid: Grid) -> tuple[int, int]:
        """Return the (A, B) cells of a smaller frame of a video with this grid."""
        return smaller_frame(grid, self.rows if isinstance(self.rows, int) else self.rows[grid[1:]])

    def tower_share(self, tokens: VideoTokens) -> float:
        """Return the share of a tower's work on all pixels that the kept frames of the smaller size need."""
        cells = prod(self.cells(tokens.grid))
        frames = -(-len(tokens) // cells)
        return frames * cells / prod(tokens.grid)

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        frames, height, width = video.grid
        down, across = self.cells(video.grid)
        cells, device = down * across, video.features.device
        whole, rest = divmod(budget_tokens(self.budget, len(video)), cells)
        shown = even_positions(frames, whole + (rest > 0), device)
        means = F.adaptive_avg_pool2d(video.as_grid()[shown].movedim(-1, 1), (down, across)).movedim(1, -1)
        tokens = even_positions(cells, rest, device) if rest else shown[:0]
        rows = torch.cat([torch.arange(whole * cells, device=device), whole * cells + tokens])
        cell = split_runs(height, down, device)[:, None] * across + split_runs(width, across, device)
        row_of = torch.full((len(shown) * cells,), -1, dtype=torch.long, device=device)
        row_of[rows] = torch.arange(len(rows), device=device)
        assign = torch.full((frames, height * width), -1, dtype=torch.long, device=device)
        assign[shown] = row_of.view(len(shown), cells)[:, cell.reshape(-1)]
        return Compressed(_tokens(video, means.flatten(0, 2)[rows], assign.reshape(-1)))


def _tokens(video: VideoTokens, features: Tensor, assign: Tensor) -> VideoTokens:
    """Return tokens with these features; the anchor of each is the first of the originals that were assigned to it."""
    originals = (assign >= 0).nonzero()[:, 0]
    index = torch.full((len(features),), len(assign), dtype=torch.long, device=assign.device)
    index.scatter_reduce_(0, assign[originals], originals, "amin")  # ascending, as the cells of a frame are
    size = torch.bincount(assign[originals], minlength=len(features))
    return replace(video, features=features, index=index, size=size, assign=assign)
