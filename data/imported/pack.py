"""Samples of planned conversations: questions with their evidence, and the json file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.writer import PackedSample
from framefold.data.video.codec import encode_video

from .dialects.damage import RefusedRow
from .frames import FrameSampler

END_TOLERANCE = 0.5  # seconds by which annotated times may exceed the file, because they are often rounded


def numbered_questions(
    conversations: Sequence[Sequence[Any]], times: np.ndarray, duration: float
) -> tuple[list[dict[str, Any]], list[RefusedRow]]:
    """Return the questions of a sample as JSON values, and why conversations are left out.

    Args:
        conversations: of planned turns.
        times: (T,) seconds of the stored frames.
        duration: of the file.
    """
    questions: list[dict[str, Any]] = []
    refused: list[RefusedRow] = []
    for turns in conversations:
        try:
            evidence = [_evidence(turn[4], times, duration) for turn in turns]
        except RefusedRow as error:
            refused.append(error)
            continue
        for place, ((text, answer, kind, choices, _), boxes) in enumerate(zip(turns, evidence, strict=True)):
            fields = {"type": kind, "text": text, "answer": answer, "choices": choices, "evidence": boxes}
            questions.append(fields | ({"follows": len(questions) - 1} if place else {}))
    return questions, refused


def _evidence(seconds: Sequence[float | None] | None, times: np.ndarray, duration: float) -> list[list[float]]:
    """Return complete frames in an interval, or the nearest one if there is none in it."""
    if seconds is None:
        return []
    start, end = seconds[0] or 0.0, duration if seconds[1] is None else seconds[1]
    if start >= duration or end > duration + END_TOLERANCE:
        raise RefusedRow("outside_video", f"{start:g} to {end:g} s of a video of {duration:.2f} s")
    numbers = np.flatnonzero((times >= start) & (times < end))
    if not len(numbers):
        numbers = np.array([np.abs(times - (start + end) / 2).argmin()])
    return [[int(number), 0.0, 0.0, 1.0, 1.0] for number in numbers]


def pack_import(
    key: str, planned: dict[str, Any], frames: np.ndarray, sampler: FrameSampler, times: np.ndarray
) -> tuple[PackedSample, list[RefusedRow]]:
    """Return a sample and why conversations of it are left out.

    Args:
        key: name of the sample.
        planned: sample of the plan.
        frames: (T, H, W, 3) uint8.
        sampler: that has read them.
        times: (T,) seconds.

    Raises:
        RefusedRow: nothing is left of it.
    """
    questions, refused = numbered_questions(planned["conversations"], times, sampler.duration)
    if not questions:
        raise refused[0]
    metadata = {
        "schema": SCHEMA_VERSION,
        "times": times.tolist(),
        "questions": questions,
        "video": planned["video"],
        "rows": planned["rows"],
        "duration": round(sampler.duration, 3),
    }
    mp4 = encode_video(frames, times, sampler.settings.crf)
    files = {"mp4": mp4, "json": json.dumps(metadata, separators=(",", ":")).encode()}
    return PackedSample(key, files, len(times)), refused
