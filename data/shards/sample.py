"""A training sample, and reading it from the files of a shard."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from framefold.data.question import SCHEMA_VERSION, Question
from framefold.data.video.codec import decode_video, evenly_spaced
from framefold.errors import DataError

from .encoded import EncodedSample, unpack_encoded


@dataclass(frozen=True)
class VideoSample:
    """A video with questions about it.

    Attributes:
        key: name, unique within its data set.
        frames: (T, H, W, 3) uint8.
        times: (T,) float32 seconds.
        questions: at least one; frame numbers in their evidence are those of the stored video.
        frame_numbers: numbers of these frames in the stored video; None if these are all of its frames.
    """

    key: str
    frames: Tensor
    times: Tensor
    questions: tuple[Question, ...]
    frame_numbers: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """Number of frames; the index of its shard records it."""
        return len(self.frames)

    def subsample(self, max_frames: int) -> VideoSample:
        """Return this sample with at most `max_frames` of its frames, evenly spaced in time.

        Raises:
            DataError: max_frames < 1.
        """
        kept = evenly_spaced(self.times.numpy(), max_frames)
        if len(kept) == len(self.frames):
            return self
        numbers = range(len(self.frames)) if self.frame_numbers is None else self.frame_numbers
        return replace(
            self, frames=self.frames[kept], times=self.times[kept], frame_numbers=tuple(numbers[i] for i in kept)
        )


Sample = VideoSample | EncodedSample


def unpack_sample(key: str, files: dict[str, Any]) -> Sample:
    """Read a sample: a video, or a video encoded by a host.

    Args:
        key: name of the sample.
        files: its files by extension, as webdataset groups them: json, and mp4 or safetensors.

    Raises:
        DataError: a file is missing or damaged, has an unknown schema, or does not fit the others.
    """
    missing = {"json", "safetensors" if "safetensors" in files else "mp4"} - files.keys()
    if missing:
        raise DataError(f"{key} has no {' and no '.join(sorted(missing))}")
    metadata = read_metadata(key, files["json"])
    if "safetensors" in files:
        return unpack_encoded(key, metadata, parse_questions(key, metadata), files["safetensors"])
    return unpack_video(key, metadata, files["mp4"])


def unpack_video(key: str, metadata: dict[str, Any], mp4: bytes, max_frames: int | None = None) -> VideoSample:
    """Decode a video sample.

    Args:
        key: name of the sample.
        metadata: contents of its json file.
        mp4: contents of its mp4 file.
        max_frames: decode at most this many frames, evenly spaced in time; None decodes all. Frame numbers in the
            evidence of the questions are not changed.

    Raises:
        DataError: the json does not follow the schema, the video is damaged, or frames and times differ in number.
    """
    questions = parse_questions(key, metadata)
    try:
        times = torch.tensor(metadata["times"], dtype=torch.float32)
        if times.ndim != 1 or not len(times):
            raise ValueError(f"times of shape {tuple(times.shape)}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{key}.json does not follow schema {SCHEMA_VERSION}: {error!r}") from error
    chosen = None if max_frames is None else evenly_spaced(times.numpy(), max_frames)
    try:
        frames, stamps = decode_video(mp4, chosen)
    except DataError as error:
        raise DataError(f"{key}.mp4: {error}") from error
    if times.shape != stamps.shape:
        raise DataError(f"{key}: {len(stamps)} frames, {tuple(times.shape)} times and {len(questions)} questions")
    if chosen is None or len(chosen) == len(times):
        return VideoSample(key, torch.from_numpy(frames), times, questions)
    return VideoSample(key, torch.from_numpy(frames), times[chosen], questions, tuple(chosen))


def read_metadata(key: str, text: bytes) -> dict[str, Any]:
    """Parse the json file of a sample.

    Raises:
        DataError: the file is damaged, or has another schema.
    """
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}.json is damaged: {error}") from error
    schema = metadata.get("schema") if isinstance(metadata, dict) else None
    if schema != SCHEMA_VERSION:
        raise DataError(f"{key}.json has schema {schema!r}, this version reads {SCHEMA_VERSION}")
    return metadata


def parse_questions(key: str, metadata: dict[str, Any]) -> tuple[Question, ...]:
    """Return the questions of a sample.

    Raises:
        DataError: the questions do not follow the schema, or there are none.
    """
    try:
        questions = tuple(_question(fields) for fields in metadata["questions"])
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
