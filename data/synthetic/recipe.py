"""How synthetic videos are made; video i of equal recipes is the same everywhere."""

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

from .difficulty import Difficulty, difficulty_of
from .generate import MIN_FRAMES, Video, generate
from .render import STYLES


@dataclass(frozen=True)
class Recipe:
    """How synthetic videos are made; video i of equal recipes is the same everywhere.

    Attributes:
        frames: shortest and longest length; every length between them is equally likely.
        seed: another seed gives other videos.
        split: train, val or test; they never share a video.
        difficulty: a preset or settings of the generator. style: "normal" or "held_out" glyphs and textures.

    Raises:
        DataError: a setting out of range.
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
        difficulty_of(self.difficulty)

    def video(self, index: int) -> Video:
        """Video number `index`, of a length that its number decides (the same for twins)."""
        low, high = self.frames
        word = int(np.random.SeedSequence([self.seed, SPLITS[self.split], index // 2]).generate_state(1)[0])
        frames = low + word % (high - low + 1)
        return generate(
            index, seed=self.seed, split=self.split, frames=frames, difficulty=self.difficulty, style=self.style
        )

    def sample(self, index: int) -> VideoSample:
        """Video number `index` as a sample, without the way through a codec."""
        return self.sample_of(self.video(index))

    def sample_of(self, video: Video) -> VideoSample:
        """A video of this recipe as a sample."""
        name = f"{self.split}-{self.seed}-{video.key[2]:08d}"
        return VideoSample(name, torch.from_numpy(video.frames), torch.from_numpy(video.times), video.questions)


def length_range(frames: Sequence[int]) -> tuple[int, int]:
    """One length or the shortest and the longest, as a pair.

    Raises:
        DataError: neither one nor two numbers.
    """
    if len(frames) not in (1, 2):
        raise DataError(f"frames takes one length, or the shortest and the longest, got {list(frames)}")
    return frames[0], frames[-1]


def pack_sample(video: Video, crf: int) -> dict[str, bytes]:
    """The files of one sample: mp4 (frames, timestamps) and json (everything else)."""
    text = json.dumps(video.annotations(), separators=(",", ":"))
    return {"mp4": encode_video(video.frames, video.times, crf), "json": text.encode()}
