"""A question about a video, and the schema of its annotations."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Special tokens of the supported hosts: places of pictures and turns of a conversation. In a question they break the
# prompt of a host that has them.
SPECIAL_TOKEN = re.compile(
    r"<\|[^<>]*\|>|</?(?:image|video|audio|img|vid|s)>|<(?:unk|pad|bos|eos|mask|user|assistant|system|image_pad|video_pad"
    r"|img_context|im_patch|im_start|im_end|im_col|global-img|fake_token_around_image|end_of_utterance|row_\d+_col_\d+)>",
    re.IGNORECASE,
)

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

    @property
    def history(self) -> tuple[tuple[str, str], ...]:
        """Questions and answers of the same conversation that precede this question."""
        return ()


@dataclass(frozen=True)
class FollowUp(Question):
    """A later question of a conversation.

    Attributes:
        history: questions and answers that precede it, as text.
    """

    history: tuple[tuple[str, str], ...] = ()
