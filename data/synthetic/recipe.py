"""Recipes of synthetic videos, and synthetic videos as training samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from framefold.data.shards.sample import VideoSample
from framefold.data.splits import SPLITS
from framefold.data.video.codec import encode_video
from framefold.errors import DataError

from .difficulty import Difficulty, resolve_difficulty
from .generate import MIN_FRAMES, Video, generate
from .render import STYLES


@dataclass(frozen=True)
class Recipe:
    """Settings of a set of synthetic videos; video i of equal recipes is the same on every machine.

    Attributes:
        frames: shortest and longest length; all lengths between them are equally likely.
        seed: seed of the generator.
        split: train, val or test; splits never share a video.
        difficulty: a preset or settings of the generator.
        style: glyphs and backgrounds: "normal", "held_out" or "natural", see :func:`.generate.generate`.

    Raises:
        DataError: a setting is out of range.
    """

    frames: tuple[int, int] = (32, 64)
    seed: int = 0
    split: str = "train"
    difficulty: str | Difficulty = "easy"
    style: str = "normal"

    def __post_init__(self) -> None:
        low, high = self.frames
        if not MIN_FRAMES <= low <= high:
            raise DataError(f"frames must be {MIN_FRAMES} <= shortest <= longest, got {low} {high}")
        if self.split not in SPLITS:
            raise DataError(f"split must be one of {', '.join(SPLITS)}, not {self.split!r}")
        if self.seed < 0:
            raise DataError(f"seed must not be negative, got {self.seed}")
        if self.style not in STYLES:
            raise DataError(f"style must be one of {', '.join(STYLES)}, not {self.style!r}")
        resolve_difficulty(self.difficulty)

    def video(self, index: int) -> Video:
        """Generate video number `index`; the number determines its length, which is the same for twins."""
        low, high = self.frames
        word = int(np.random.SeedSequence([self.seed, SPLITS[self.split], index // 2]).generate_state(1)[0])
        frames = low + word % (high - low + 1)
        return generate(
            index, seed=self.seed, split=self.split, frames=frames, difficulty=self.difficulty, style=self.style
        )

    def sample(self, index: int) -> VideoSample:
        """Generate video number `index` as a sample; the frames are not encoded."""
        return self.to_sample(self.video(index))

    def to_sample(self, video: Video) -> VideoSample:
        """Convert a video of this recipe to a sample."""
        name = f"{self.split}-{self.seed}-{video.key[2]:08d}"
        return VideoSample(name, torch.from_numpy(video.frames), torch.from_numpy(video.times), video.questions)


def length_range(frames: Sequence[int]) -> tuple[int, int]:
    """Return the shortest and the longest length; a single length is used for both.

    Raises:
        DataError: there are neither one nor two numbers.
    """
    if len(frames) not in (1, 2):
        raise DataError(f"frames must be one length, or the shortest and the longest, got {list(frames)}")
    return frames[0], frames[-1]


def pack_sample(video: Video, crf: int) -> dict[str, bytes]:
    """Return the files of a sample by extension: mp4 (frames and timestamps) and json (everything else)."""
    text = json.dumps(video.annotations(), separators=(",", ":"))
    return {"mp4": encode_video(video.frames, video.times, crf), "json": text.encode()}
