"""A question about a video, and the schema of its annotations."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 2  # of the json file of a sample

Box = tuple[int, float, float, float, float]  # frame number, then y0, x0, y1, x1 as fractions of the frame


@dataclass(frozen=True)
class Question:
    """A question about a video, its answer and its evidence.

    Attributes:
        type: name of the kind of question.
        text: the question as the model reads it.
        answer: the expected answer.
        choices: possible answers; empty for free text.
        evidence: boxes that are sufficient to answer the question.
    """

    type: str
    text: str
    answer: str
    choices: tuple[str, ...]
    evidence: tuple[Box, ...]
