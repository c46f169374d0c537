"""What a dialect of annotations defines, and what it makes of a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .damage import RefusedRow

Row = Mapping[str, Any]  # fields of a row by name

Interval = tuple[float, float | None]  # in seconds; None for the end of the video


@dataclass(frozen=True)
class Turn:
    """A question about a video and its answer.

    Attributes:
        text: the question, with its options.
        answer: the expected answer.
        kind: type of the question.
        choices: possible answers, or empty for free text.
        seconds: start and end of the part of the video that answers it, None for the end of the video; None if unknown.
    """

    text: str
    answer: str
    kind: str
    choices: tuple[str, ...] = ()
    seconds: Interval | None = None


Conversation = tuple[Turn, ...]  # each turn follows the one before it


@dataclass(frozen=True)
class ImportedRow:
    """What a row says about a video.

    Attributes:
        video: path or name of the video, as the row has it.
        conversations: independent of each other.
        refused: conversations of the row that cannot be imported.
    """

    video: str
    conversations: tuple[Conversation, ...]
    refused: tuple[RefusedRow, ...] = ()


class Dialect(ABC):
    """A dialect of annotations.

    Attributes:
        name: for ``--format``.
        summary: which files have it, in a few words.
    """

    name: str
    summary: str

    @abstractmethod
    def matches(self, row: Row) -> bool:
        """Return whether the first row of a file looks like this dialect."""

    @abstractmethod
    def convert(self, row: Row) -> ImportedRow:
        """Return the conversations of a row.

        Raises:
            RefusedRow: nothing of the row can be imported.
        """
