"""A training sample, and reading it from the files of a shard."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from framefold.data.question import SCHEMA_VERSION, Question
from framefold.data.video.codec import decode_video, evenly_spaced
from framefold.errors import DataError

from .encoded import EncodedSample, unpack_encoded
from .fields import FieldError, check_frame_numbers, questions_field, times_field


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
    check_files(key, files, "safetensors" if "safetensors" in files else "mp4")
    metadata = read_metadata(key, files["json"])
    if "safetensors" not in files:
        return unpack_video(key, metadata, files["mp4"])
    questions = parse_questions(key, metadata)
    sample = unpack_encoded(key, metadata, questions, files["safetensors"])
    with _schema_errors(key):
        check_frame_numbers(questions, len(sample.features))
    return sample


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
    with _schema_errors(key):
        times = torch.from_numpy(times_field(metadata))
    chosen = None if max_frames is None else evenly_spaced(times.numpy(), max_frames)
    try:
        frames, stamps = decode_video(mp4, chosen)
    except DataError as error:
        raise DataError(f"{key}.mp4: {error}") from error
    if times.shape != stamps.shape:
        raise DataError(f"{key}.mp4 has {len(stamps)} frames, but {key}.json has {len(times)} times")
    with _schema_errors(key):
        check_frame_numbers(questions, len(times))
    if chosen is None or len(chosen) == len(times):
        return VideoSample(key, torch.from_numpy(frames), times, questions)
    return VideoSample(key, torch.from_numpy(frames), times[chosen], questions, tuple(chosen))


def check_files(key: str, files: dict[str, Any], media: str) -> None:
    """Check that a sample has its two files.

    Args:
        key: name of the sample.
        files: its files by extension.
        media: extension of the file next to the json: mp4 or safetensors.

    Raises:
        DataError: a file is missing.
    """
    missing = sorted({"json", media} - files.keys())
    if not missing:
        return
    others = sorted(name for name in files if not name.startswith("__") and name not in ("json", "mp4", "safetensors"))
    found = f": it has {', '.join(others[:4])}{' ...' if len(others) > 4 else ''}" if others else ""
    rule = (
        ", and the key of a sample is its file name up to the first dot" if any("." in name for name in others) else ""
    )
    raise DataError(f"{key} has no {' and no '.join(missing)}{found}{rule}")


def read_metadata(key: str, text: bytes) -> dict[str, Any]:
    """Parse the json file of a sample.

    Raises:
        DataError: the file is damaged, or has another schema.
    """
    try:
        metadata = json.loads(text, object_pairs_hook=_unique_fields)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{key}.json is damaged: {error}") from error
    if not isinstance(metadata, dict):
        raise DataError(f"{key}.json must be an object with schema, times and questions, not {type(metadata).__name__}")
    schema = metadata.get("schema")
    if type(schema) is not int or schema != SCHEMA_VERSION:
        raise DataError(f"{key}.json has schema {schema!r:.40}, this version reads {SCHEMA_VERSION}")
    return metadata


def parse_questions(key: str, metadata: dict[str, Any]) -> tuple[Question, ...]:
    """Return the questions of a sample.

    Raises:
        DataError: the questions do not follow the schema, or there are none.
    """
    with _schema_errors(key):
        questions = questions_field(metadata)
    if not questions:
        raise DataError(f"{key} has no questions")
    return questions


def check_special_tokens(key: str, questions: Sequence[Question], tokens: Collection[str]) -> None:
    """Check that questions and answers contain no special token of a host.

    Raises:
        DataError: one of them does.
    """
    for number, question in enumerate(questions):
        for name in ("text", "answer"):
            if token := next((token for token in tokens if token in getattr(question, name)), None):
                raise DataError(
                    f"{key}.json: questions[{number}].{name} contains {token!r}, a special token of this host, which "
                    "stands for a picture or a turn of the conversation: write it in other words"
                )


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object; json itself would keep the last of equal names only."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the field {twice!r:.40} is given twice")
    return fields


@contextmanager
def _schema_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FieldError as error:
        raise DataError(f"{key}.json does not follow schema {SCHEMA_VERSION}: {error}") from error
