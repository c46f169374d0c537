"""Choosing the frames of a long video that are shown."""

from __future__ import annotations

import numpy as np

from framefold.errors import DataError

MAX_FRAMES = 64  # unless more frames contain evidence


def select_frames(count: int, evidence: set[int]) -> list[int]:
    """Choose all frames that contain evidence, and evenly spaced others up to :data:`MAX_FRAMES`.

    Args:
        count: number of frames of the video.
        evidence: numbers of the frames with evidence.

    Returns:
        Ascending frame numbers, with the first and the last frame among them.

    Raises:
        DataError: evidence is in a frame that the video does not have.
    """
    if evidence and not 0 <= min(evidence) <= max(evidence) < count:
        raise DataError(f"evidence in frames {min(evidence)} to {max(evidence)} of a video with {count} frames")
    for spaced in range(min(count, MAX_FRAMES), 2, -1):
        chosen = evidence | {round(position) for position in np.linspace(0, count - 1, spaced)}
        if len(chosen) <= MAX_FRAMES:
            return sorted(chosen)
    return sorted(evidence | {0, count - 1})
