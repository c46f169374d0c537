"""From evidence boxes to the visual tokens that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from framefold.errors import DataError

from .question import Box

View = tuple[float, float, float, float]

WHOLE: View = (0.0, 0.0, 1.0, 1.0)


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


def relocate(evidence: Sequence[Box], steps: Mapping[int, int], view: View = WHOLE) -> tuple[Box, ...]:
    """Evidence as a host sees it: in steps of its grid, and in fractions of the part of the frame that it looks at.

    Args:
        evidence: boxes in frames of the stored video.
        steps: step of the grid that shows a frame; frames that the host is not shown are left out.
        view: (y0, x0, y1, x1) of that part, in fractions of the frame; beyond 0 and 1 where there is a border.

    Returns:
        What the host sees of them; nothing, if it is shown none of these frames.
    """
    top, left, bottom, right = view
    found = []
    for frame, y0, x0, y1, x1 in evidence:
        rows, columns = _within(y0, y1, top, bottom), _within(x0, x1, left, right)
        if frame in steps and rows[0] < rows[1] and columns[0] < columns[1]:
            found.append((steps[frame], rows[0], columns[0], rows[1], columns[1]))
    return tuple(found)


def _within(low: float, high: float, start: float, end: float) -> tuple[float, float]:
    """A stretch in fractions of another one, as far as it lies in there."""
    if (start, end) == (0.0, 1.0):
        return low, high
    return max(0.0, (low - start) / (end - start)), min(1.0, (high - start) / (end - start))


def _overlap(low: float, high: float, cells: int) -> np.ndarray:
    """(cells,) fraction of each cell inside low..high."""
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) * cells
