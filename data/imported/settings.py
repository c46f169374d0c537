"""Settings of imported videos, validated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from framefold.errors import DataError

MAX_VIDEO_BYTES = 4_000_000_000  # of the frames of the longest video, which a worker keeps in memory


@dataclass(frozen=True)
class ImportSettings:
    """Settings that determine imported shards together with annotations and video files.

    Attributes:
        format: dialect of the annotations, or "auto".
        columns: field by the name that a dialect expects, or a list of fields.
        fps: stored frames per second.
        max_frames: largest number of stored frames of a video.
        size: largest side of the stored frames in pixels.
        sample: fraction of the rows to import.
        seed: seed of the choice of rows.
        shard_size: videos per shard.
        crf: H.264 quality.

    Raises:
        DataError: a setting is out of range.
    """

    format: str
    columns: dict[str, Any]
    fps: float
    max_frames: int
    size: int
    sample: float
    seed: int
    shard_size: int
    crf: int

    def __post_init__(self) -> None:
        if not 0.01 <= self.fps <= 30:
            raise DataError(f"fps must be between 0.01 and 30, not {self.fps:g}")
        if not 0 < self.sample <= 1:
            raise DataError(f"sample must be a fraction above 0, at most 1, not {self.sample:g}")
        if self.max_frames < 1 or self.shard_size < 1 or self.seed < 0:
            numbers = f"{self.max_frames}, {self.shard_size} and {self.seed}"
            raise DataError(f"max_frames and shard_size must be positive, seed not negative, got {numbers}")
        if not 16 <= self.size <= 4096 or not 0 <= self.crf <= 51:
            raise DataError(f"size must be 16 to 4096 pixels, crf 0 to 51, got {self.size} and {self.crf}")
        largest = self.max_frames * self.size**2 * 3
        if largest > MAX_VIDEO_BYTES:
            raise DataError(
                f"{self.max_frames} frames of {self.size} pixels need {largest / 1e9:.1f} GB of memory per worker, "
                f"more than {MAX_VIDEO_BYTES / 1e9:g}: lower max_frames or size"
            )
