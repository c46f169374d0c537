"""Evidence boxes in the coordinates of a token grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from framefold.errors import DataError

from .question import Box

Viewport = tuple[float, float, float, float]  # y0, x0, y1, x1 as fractions of the frame

FULL_FRAME: Viewport = (0.0, 0.0, 1.0, 1.0)


def evidence_mask(evidence: Sequence[Box], grid: tuple[int, int, int]) -> np.ndarray:
    """Return a boolean mask (T, H, W) of the tokens that contain evidence.

    A token is marked if a box covers at least a quarter of it. The token that a box covers most is always marked.

    Args:
        evidence: boxes whose frame number is a step of the grid.
        grid: (T, H, W).

    Raises:
        DataError: a box is in a frame outside the grid.
    """
    steps, height, width = grid
    mask = np.zeros(grid, bool)
    for frame, y0, x0, y1, x1 in evidence:
        if not 0 <= frame < steps:
            raise DataError(
                f"evidence in frame {frame} of a grid with {steps} frames: pass the grid of the complete video"
            )
        rows, columns = _overlap(y0, y1, height), _overlap(x0, x1, width)
        covered = rows[:, None] * columns[None, :]
        mask[frame] |= (covered >= 0.25) | (covered == covered.max())
    return mask


def relocate_evidence(
    evidence: Sequence[Box], steps: Mapping[int, int], viewport: Viewport = FULL_FRAME
) -> tuple[Box, ...]:
    """Convert boxes from frames of the stored video to steps and image coordinates of a host.

    Args:
        evidence: boxes in frames of the stored video.
        steps: maps a frame number to the step of the host's grid; frames that the host does not see are absent.
        viewport: the part of the frame that the host sees; it exceeds 0 to 1 if the host adds a border.

    Returns:
        The visible part of every visible box.
    """
    top, left, bottom, right = viewport
    visible = []
    for frame, y0, x0, y1, x1 in evidence:
        rows, columns = _relative_interval(y0, y1, top, bottom), _relative_interval(x0, x1, left, right)
        if frame in steps and rows[0] < rows[1] and columns[0] < columns[1]:
            visible.append((steps[frame], rows[0], columns[0], rows[1], columns[1]))
    return tuple(visible)


def _relative_interval(low: float, high: float, start: float, end: float) -> tuple[float, float]:
    """Express low..high as fractions of start..end, clipped to 0..1."""
    if (start, end) == (0.0, 1.0):
        return low, high
    return max(0.0, (low - start) / (end - start)), min(1.0, (high - start) / (end - start))


def _overlap(low: float, high: float, cells: int) -> np.ndarray:
    """Return the fraction of each of (cells,) equal cells that low..high covers."""
    edges = np.arange(cells + 1) / cells
    return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) * cells
