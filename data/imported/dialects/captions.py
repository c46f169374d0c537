"""Questions that captions answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .damage import RefusedRow
from .dialect import Conversation, ImportedRow, Turn
from .texts import interval_of, make_turn, text_of

CAPTION, MOMENT = "caption", "moment_caption"

DESCRIBE = "Describe the video."

DESCRIBE_MOMENT = "What happens from {start:g} to {end:g} seconds of the video?"

DESCRIBE_END = "What happens from {start:g} seconds to the end of the video?"


def caption_turn(text: Any) -> Turn:
    """Return the question that a caption of the complete video answers.

    Raises:
        RefusedRow: the caption cannot be stored.
    """
    return make_turn(DESCRIBE, text_of(text, "a caption"), CAPTION, ())


def moment_turn(text: Any, start: Any, end: Any) -> Turn:
    """Return the question that a caption of a part of the video answers; the part is its evidence.

    Raises:
        RefusedRow: the caption cannot be stored, or the times are no interval.
    """
    seconds = interval_of(start, end)
    asked = (DESCRIBE_END if seconds[1] is None else DESCRIBE_MOMENT).format(start=seconds[0], end=seconds[1])
    return make_turn(asked, text_of(text, "a caption"), MOMENT, (), seconds)


def caption_row(video: str, captions: Iterable[tuple[Any, Any, Any]]) -> ImportedRow:
    """Return a row with one conversation for each caption that can be imported.

    Args:
        video: name of the video.
        captions: text, start and end; both are None for captions of the complete video, one for its start or end.

    Raises:
        RefusedRow: none of them can be imported.
    """
    refused: list[RefusedRow] = []
    conversations = tuple(_conversations(captions, refused))
    if not conversations:
        raise refused[0] if refused else RefusedRow("no_turns", f"{video:.60} has no captions")
    return ImportedRow(video, conversations, tuple(refused))


def _conversations(captions: Iterable[tuple[Any, Any, Any]], refused: list[RefusedRow]) -> Iterator[Conversation]:
    for text, start, end in captions:
        try:
            yield (caption_turn(text) if start is None and end is None else moment_turn(text, start, end),)
        except RefusedRow as error:
            refused.append(error)
