"""A question about a video, and the schema of its annotations."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 2  # of the annotations in a shard
Box = tuple[int, float, float, float, float]  # frame, y0, x0, y1, x1 in fractions of the frame


@dataclass(frozen=True)
class Question:
    """One question with its single-word answer.

    evidence: boxes (frame, y0, x0, y1, x1) in fractions of the frame; seeing only these is enough to answer.
    """

    type: str
    text: str
    answer: str
    choices: tuple[str, ...]
    evidence: tuple[Box, ...]
