"""How spliced videos look: the settings of ``framefold shards splice``, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from framefold.errors import DataError

from .probe import Look

MOST_BYTES = 4_000_000_000  # of the longest video's frames, which a worker holds


@dataclass(frozen=True)
class Setup:
    """What decides the bytes of spliced videos, beside the clips; as on the command line."""

    minutes: tuple[float, float]
    fps: float
    size: tuple[int, int]
    clip_seconds: tuple[float, float]
    questions: int
    crf: int

    def __post_init__(self) -> None:
        low, high = self.minutes
        if not 0 < low <= high <= 60:
            raise DataError(f"minutes must be 0 < shortest <= longest <= 60, got {low:g} {high:g}")
        if not 0.1 <= self.fps <= 30:
            raise DataError(f"fps must be between 0.1 and 30, not {self.fps:g}")
        if not all(32 <= side <= 2048 for side in self.size):
            raise DataError(f"size must be 32 to 2048 pixels, got {self.size[0]} {self.size[1]}")
        if not 0 < self.clip_seconds[0] <= self.clip_seconds[1] < math.inf:
            raise DataError(f"clip_seconds must be 0 < shortest <= longest, got {self.clip_seconds}")
        if self.questions < 1 or not 0 <= self.crf <= 51:
            raise DataError(f"questions must be positive, crf 0 to 51, got {self.questions} and {self.crf}")
        if self.frames[0] > self.frames[1]:
            raise DataError(f"there is no whole frame between {low:g} and {high:g} minutes at {self.fps:g} a second")
        heaviest = self.frames[1] * self.size[0] * self.size[1] * 3
        if heaviest > MOST_BYTES:
            raise DataError(
                f"the frames of a video of {high:g} minutes would take {heaviest / 1e9:.1f} GB of memory a worker, "
                f"more than {MOST_BYTES / 1e9:g}: choose fewer minutes or a smaller size or fps"
            )

    @property
    def frames(self) -> tuple[int, int]:
        """Frames of the shortest and of the longest video."""
        low, high = (minutes * 60 * self.fps for minutes in self.minutes)
        return max(1, math.ceil(low - 1e-6)), math.floor(high + 1e-6)

    @property
    def look(self) -> Look:
        """What is asked of a clip."""
        return Look(self.fps, *self.clip_seconds)


def pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    """One number twice, or two; as floats, so that 1 and 1.0 make the same index.

    Raises:
        DataError: neither.
    """
    if len(values) not in (1, 2):
        raise DataError(f"{name} takes one number or two, got {list(values)}")
    return float(values[0]), float(values[-1])
