"""One training sample, made on the fly or read back from a shard, and the schema it is stored in."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from framefold.data.question import SCHEMA_VERSION, Question
from framefold.data.video.codec import decode, evenly
from framefold.errors import DataError

from .encoded import EncodedSample, unpack_encoded


@dataclass(frozen=True)
class VideoSample:
    """A video with questions about it.

    Attributes:
        key: name, unique within its data set.
        frames: (T, H, W, 3) uint8.
        times: (T,) float32 seconds of each frame.
        questions: at least one; frames in their evidence are those of the stored video.
        numbers: of these frames in the stored video, where it has more than these.
    """

    key: str
    frames: Tensor
    times: Tensor
    questions: tuple[Question, ...]
    numbers: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """Frames, as the index of its shard counts them."""
        return len(self.frames)

    def thinned(self, most: int) -> VideoSample:
        """At most so many of the frames, evenly over the duration.

        Raises:
            DataError: most < 1.
        """
        kept = evenly(self.times.numpy(), most)
        if len(kept) == len(self.frames):
            return self
        numbers = tuple(range(len(self.frames)) if self.numbers is None else self.numbers)
        return replace(
            self, frames=self.frames[kept], times=self.times[kept], numbers=tuple(numbers[place] for place in kept)
        )


Sample = VideoSample | EncodedSample


def unpack(key: str, files: dict[str, Any]) -> Sample:
    """Read a sample back: a video, or what a host has made of one.

    Args:
        files: its files by extension, as webdataset groups them: json, and mp4 or safetensors.

    Raises:
        DataError: a file is missing or damaged, the schema is another one, or the files do not fit each other.
    """
    missing = {"json", "safetensors" if "safetensors" in files else "mp4"} - files.keys()
    if missing:
        raise DataError(f"{key} has no {' and no '.join(sorted(missing))}")
    notes = read_notes(key, files["json"])
    if "safetensors" in files:
        return unpack_encoded(key, notes, questions_of(key, notes), files["safetensors"])
    return unpack_video(key, notes, files["mp4"])


def unpack_video(key: str, notes: dict[str, Any], mp4: bytes, most: int | None = None) -> VideoSample:
    """A sample of a video.

    Args:
        notes: what its json says. most: frames to keep, evenly over the duration; None: all. The questions stay as
            they are, with the evidence in frames of the stored video.

    Raises:
        DataError: no such schema, damaged video, or frames and timestamps that do not match.
    """
    questions = questions_of(key, notes)
    try:
        times = torch.tensor(notes["times"], dtype=torch.float32)
        if times.ndim != 1 or not len(times):
            raise ValueError(f"times of shape {tuple(times.shape)}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{key}.json does not follow schema {SCHEMA_VERSION}: {error!r}") from error
    wanted = None if most is None else evenly(times.numpy(), most)
    try:
        frames, stamps = decode(mp4, wanted)
    except DataError as error:
        raise DataError(f"{key}.mp4: {error}") from error
    if times.shape != stamps.shape:
        raise DataError(f"{key}: {len(stamps)} frames, {tuple(times.shape)} times and {len(questions)} questions")
    if wanted is None or len(wanted) == len(times):
        return VideoSample(key, torch.from_numpy(frames), times, questions)
    return VideoSample(key, torch.from_numpy(frames), times[wanted], questions, tuple(wanted))


def read_notes(key: str, text: bytes) -> dict[str, Any]:
    """What the json of a sample says.

    Raises:
        DataError: it is damaged, or of another schema.
    """
    try:
        notes = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}.json is damaged: {error}") from error
    schema = notes.get("schema") if isinstance(notes, dict) else None
    if schema != SCHEMA_VERSION:
        raise DataError(f"{key}.json has schema {schema!r}, this version reads {SCHEMA_VERSION}")
    return notes


def questions_of(key: str, notes: dict[str, Any]) -> tuple[Question, ...]:
    """The questions of a sample, at least one.

    Raises:
        DataError: they do not follow the schema.
    """
    try:
        questions = tuple(_question(fields) for fields in notes["questions"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{key}.json does not follow schema {SCHEMA_VERSION}: {error!r}") from error
    if not questions:
        raise DataError(f"{key} has no questions")
    return questions


def _question(fields: dict[str, Any]) -> Question:
    evidence = tuple(
        (int(frame), float(y0), float(x0), float(y1), float(x1)) for frame, y0, x0, y1, x1 in fields["evidence"]
    )
    words = [str(fields[name]) for name in ("type", "text", "answer")]
    return Question(words[0], words[1], words[2], tuple(fields["choices"]), evidence)
