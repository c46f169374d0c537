"""One training sample, made on the fly or read back from a shard, and the schema it is stored in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .difficulty import Difficulty, difficulty_of
from .errors import DataError
from .synthetic import MIN_FRAMES, SCHEMA_VERSION, SPLITS, STYLES, Question, Video, generate
from .video import decode, encode


@dataclass(frozen=True)
class Sample:
    """A video with questions about it.

    Attributes:
        key: name, unique within its data set.
        frames: (T, H, W, 3) uint8.
        times: (T,) float32 seconds of each frame.
        questions: at least one.
    """

    key: str
    frames: Tensor
    times: Tensor
    questions: tuple[Question, ...]

    @property
    def length(self) -> int:
        """Frames, as the index of its shard counts them."""
        return len(self.frames)


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

    def sample(self, index: int) -> Sample:
        """Video number `index` as a sample, without the way through a codec."""
        return self.sample_of(self.video(index))

    def sample_of(self, video: Video) -> Sample:
        """A video of this recipe as a sample."""
        name = f"{self.split}-{self.seed}-{video.key[2]:08d}"
        return Sample(name, torch.from_numpy(video.frames), torch.from_numpy(video.times), video.questions)


def length_range(frames: Sequence[int]) -> tuple[int, int]:
    """One length or the shortest and the longest, as a pair.

    Raises:
        DataError: neither one nor two numbers.
    """
    if len(frames) not in (1, 2):
        raise DataError(f"frames takes one length, or the shortest and the longest, got {list(frames)}")
    return frames[0], frames[-1]


def pack(video: Video, crf: int) -> dict[str, bytes]:
    """The files of one sample: mp4 (frames, timestamps) and json (everything else)."""
    text = json.dumps(video.annotations(), separators=(",", ":"))
    return {"mp4": encode(video.frames, video.times, crf), "json": text.encode()}


def unpack(key: str, files: dict[str, Any]) -> Sample:
    """Read a sample back.

    Args:
        files: its files by extension, as webdataset groups them: mp4 and json.

    Raises:
        DataError: a file is missing or damaged, the schema is another one, or frames and timestamps do not match.
    """
    missing = {"mp4", "json"} - files.keys()
    if missing:
        raise DataError(f"{key} has no {' and no '.join(sorted(missing))}")
    notes = _annotations(key, files["json"])
    try:
        questions = tuple(_question(fields) for fields in notes["questions"])
        times = torch.tensor(notes["times"], dtype=torch.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{key}.json does not follow schema {SCHEMA_VERSION}: {error!r}") from error
    try:
        frames, _ = decode(files["mp4"])
    except DataError as error:
        raise DataError(f"{key}.mp4: {error}") from error
    if times.shape != (len(frames),) or not questions:
        raise DataError(f"{key}: {len(frames)} frames, {tuple(times.shape)} times and {len(questions)} questions")
    return Sample(key, torch.from_numpy(frames), times, questions)


def _annotations(key: str, text: bytes) -> dict[str, Any]:
    try:
        notes = json.loads(text)
    except ValueError as error:
        raise DataError(f"{key}.json is damaged: {error}") from error
    schema = notes.get("schema") if isinstance(notes, dict) else None
    if schema != SCHEMA_VERSION:
        raise DataError(f"{key}.json has schema {schema!r}, this version reads {SCHEMA_VERSION}")
    return notes


def _question(fields: dict[str, Any]) -> Question:
    evidence = tuple((int(frame), y0, x0, y1, x1) for frame, y0, x0, y1, x1 in fields["evidence"])
    words = [str(fields[name]) for name in ("type", "text", "answer")]
    return Question(words[0], words[1], words[2], tuple(fields["choices"]), evidence)
