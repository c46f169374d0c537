"""One small prompt whose positions are known, numbered when a model of the engine is made."""

from __future__ import annotations

import torch

from framefold.errors import ServingError

from .positions import Medium, initial_positions, media_grid_positions, position_channels, write_positions

# Two words, a video of 3 frames of 2 x 3 tokens that are 700 positions apart, of which 4 tokens are left, and a word.
GRID, STEP, KEPT = (3, 2, 3), 700, (1, 5, 6, 17)
POSITIONS = [
    [0, 1, 2, 2, 702, 1402, 5],
    [0, 1, 2, 3, 2, 3, 5],
    [0, 1, 3, 4, 2, 4, 5],
]


def check_numbering(dtype: torch.dtype) -> None:
    """Number the prompt as the engine does, in two steps that meet inside of the video.

    Args:
        dtype: that of the features in the engine.

    Raises:
        ServingError: a position differs from the known one.
    """
    length, offset = len(POSITIONS[0]), 2
    positions, _ = initial_positions(length, [Medium(offset, len(KEPT), max(GRID[1:]))])
    channels = position_channels(media_grid_positions(GRID, STEP)[list(KEPT)], 0, torch.zeros((), dtype=dtype))
    placeholders = torch.zeros(length, dtype=torch.bool)
    placeholders[offset : offset + len(KEPT)] = True
    for piece, computed in ((channels[:3], 0), (channels[3:], offset + 3)):
        _, positions, delta = write_positions(placeholders, [piece], positions, computed)
    if positions.tolist() != POSITIONS or delta != POSITIONS[0][-1] + 1 - length:
        raise ServingError(f"the plug-in numbers a known prompt as {positions.tolist()}, not as {POSITIONS}")
