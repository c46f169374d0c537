"""Settings of spliced videos, validated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from framefold.errors import DataError

from .probe import ClipSampling

MAX_VIDEO_BYTES = 4_000_000_000  # of the frames of the longest video, which a worker keeps in memory


@dataclass(frozen=True)
class SpliceSettings:
    """Settings that determine spliced videos together with the clips.

    Attributes:
        minutes: shortest and longest video.
        fps: stored frames per second.
        size: height and width of the stored frames.
        clip_seconds: shortest and longest clip.
        questions: largest number of questions of each type per video.
        crf: H.264 quality.

    Raises:
        DataError: a setting is out of range.
    """

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
            raise DataError(f"no number of frames lasts {low:g} to {high:g} minutes at {self.fps:g} frames per second")
        largest = self.frames[1] * self.size[0] * self.size[1] * 3
        if largest > MAX_VIDEO_BYTES:
            raise DataError(
                f"the frames of a video of {high:g} minutes need {largest / 1e9:.1f} GB of memory per worker, "
                f"more than {MAX_VIDEO_BYTES / 1e9:g}: choose fewer minutes or a smaller size or fps"
            )

    @property
    def frames(self) -> tuple[int, int]:
        """Number of frames of the shortest and of the longest video."""
        low, high = (minutes * 60 * self.fps for minutes in self.minutes)
        return max(1, math.ceil(low - 1e-6)), math.floor(high + 1e-6)

    @property
    def sampling(self) -> ClipSampling:
        """How frames are taken from a clip."""
        return ClipSampling(self.fps, *self.clip_seconds)


def as_pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Return two numbers as floats, so that 1 and 1.0 give the same index; a single number is used for both.

    Raises:
        DataError: there are neither one nor two numbers.
    """
    if len(values) not in (1, 2):
        raise DataError(f"{name} must be one number or two, got {list(values)}")
    return float(values[0]), float(values[-1])
