"""Texts of turns: checked so that the shards that are written pass their own check."""

from __future__ import annotations

import math
import re
from typing import Any

from framefold.data.question import SPECIAL_TOKEN
from framefold.data.shards.fields import FieldError, questions_field

from .damage import RefusedRow
from .dialect import Interval, Turn
from .options import answer_choices, find_options

CHOICE, OPEN = "multiple_choice", "open_ended"

CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")  # hours:minutes:seconds


def make_turn(
    text: str,
    answer: str,
    kind: str | None = None,
    choices: tuple[str, ...] | None = None,
    seconds: Interval | None = None,
) -> Turn:
    """Return a checked turn.

    Args:
        text: the question.
        answer: its answer.
        kind: type of the question; by default whether it has options.
        choices: possible answers; by default those of the options in the text.
        seconds: the part of the video that answers it.

    Raises:
        RefusedRow: a text is empty, or cannot be stored.
    """
    text, answer = text.strip(), answer.strip()
    if not text:
        raise RefusedRow("empty_question", "the question is empty")
    if not answer:
        raise RefusedRow("empty_answer", f"the answer to {text!r:.60} is empty")
    for part in (text, answer):
        if found := SPECIAL_TOKEN.search(part):
            raise RefusedRow("special_token", f"{part!r:.60} contains {found[0]!r}")
    choices = answer_choices(answer, find_options(text)) if choices is None else choices
    turn = Turn(text, answer, kind or (CHOICE if choices else OPEN), choices, seconds)
    stored = {"type": turn.kind, "text": text, "answer": answer, "choices": list(choices), "evidence": []}
    try:
        questions_field({"questions": [stored]})
    except FieldError as error:
        raise RefusedRow("unstorable", str(error)) from error
    return turn


def text_of(value: Any, name: str) -> str:
    """Return a field that must be text; numbers become text.

    Raises:
        RefusedRow: it is something else.
    """
    if type(value) in (int, float) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise RefusedRow("not_text", f"{name} must be text, not {value!r:.60}")
    return value


def interval_of(start: Any, end: Any) -> Interval:
    """Return an interval in seconds from numbers, or texts such as ``12.5`` and ``00:01:12.5``.

    Args:
        start: None for the start of the video.
        end: None for its end.

    Raises:
        RefusedRow: one is no time, or the interval does not end after its start.
    """
    low, high = 0.0 if start is None else _seconds(start), None if end is None else _seconds(end)
    if high is not None and not low < high:
        raise RefusedRow("wrong_time", f"{start!r:.40} to {end!r:.40} is no interval")
    return low, high


def _seconds(value: Any) -> float:
    number = math.nan
    if isinstance(value, str) and (clock := CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        number = hours * 3600 + minutes * 60 + seconds
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number) or number < 0:
        raise RefusedRow("wrong_time", f"{value!r:.40} is no time in seconds")
    return number
