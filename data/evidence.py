"""From evidence boxes to the visual tokens that hold them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import DataError
from .questions import Box


def evidence_mask(evidence: Sequence[Box], grid: tuple[int, int, int]) -> np.ndarray:
    """Which tokens of a (T, H, W) grid hold the evidence: bool (T, H, W).

    A token counts if a box covers a quarter of it, and in any case the token that the box covers most.
    Raises DataError for a frame outside the grid.
    """
    steps, height, width = grid
    mask = np.zeros(grid, bool)
    for frame, y0, x0, y1, x1 in evidence:
        if not 0 <= frame < steps:
            raise DataError(
                f"evidence in frame {frame} of a grid with {steps} frames: pass the grid of the whole video"
            )
        rows, columns = _overlap(y0, y1, height), _overlap(x0, x1, width)
        covered = rows[:, None] * columns[None, :]
        mask[frame] |= (covered >= 0.25) | (covered == covered.max())
    return mask


def _overlap(low: float, high: float, cells: int) -> np.ndarray:
    """(cells,) fraction of each cell inside low..high."""
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) * cells
