"""Validation of the fields of a sample's json file, which may be of any origin.

Nothing is converted that is not of its type: null does not become the text "None", and pixels do not become fractions.
Each message names the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from reprlib import Repr
from typing import Any
from unicodedata import category

import numpy as np

from framefold.data.question import Box, FollowUp, Question

NUMBERS = (int, float)

SHORT = Repr()

SHORT.maxstring = SHORT.maxother = 60

INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")  # Unicode categories of controls, blanks and zero-width characters

ROUNDING = 1e-6  # by which the sides of a box may exceed the frame


class FieldError(ValueError):
    """A field is missing, or holds something else than it must."""


def times_field(fields: dict[str, Any]) -> np.ndarray:
    """Return (T,) float32, the seconds of the frames.

    Raises:
        FieldError: they are not finite numbers from 0 on, do not ascend, or there are none.
    """
    values = _required(fields, "times", "times")
    if not isinstance(values, list) or not values:
        raise FieldError(f"times must be a list of seconds, one per frame, not {_short(values)}")
    seconds = np.array([_number(value) for value in values])
    with np.errstate(over="ignore"):  # becomes infinite
        rounded = seconds.astype(np.float32)
    if (wrong := np.flatnonzero(~np.isfinite(rounded) | (seconds < 0))).size:
        raise FieldError(f"times[{wrong[0]}] must be seconds, 0 or more, not {_short(values[wrong[0]])}")
    if (wrong := np.flatnonzero(np.diff(rounded) <= 0)).size:
        late, early = (_short(values[wrong[0] + step]) for step in (0, 1))
        raise FieldError(f"times must ascend, but times[{wrong[0] + 1}] = {early} follows {late} (compared as float32)")
    return rounded


def questions_field(fields: dict[str, Any]) -> tuple[Question, ...]:
    """Return the questions, possibly none.

    Raises:
        FieldError: a question lacks a field, or a field is not of its type.
    """
    entries = _required(fields, "questions", "questions")
    if not isinstance(entries, list):
        raise FieldError(f"questions must be a list of objects, not {_short(entries)}")
    questions: list[Question] = []
    for number, entry in enumerate(entries):
        question = _question(entry, f"questions[{number}]")
        questions.append(_with_history(question, entry.get("follows"), questions))
    return tuple(questions)


def _with_history(question: Question, follows: Any, before: Sequence[Question]) -> Question:
    """Return a question with the conversation that precedes it, given the number of the question that it follows."""
    if follows is None:
        return question
    if type(follows) is not int or not 0 <= follows < len(before):
        where = f"questions[{len(before)}].follows"
        raise FieldError(f"{where} must be the number of an earlier question of the sample, not {_short(follows)}")
    last = before[follows]
    fields = (question.type, question.text, question.answer, question.choices, question.evidence)
    return FollowUp(*fields, history=(*last.history, (last.text, last.answer)))


def check_frame_numbers(questions: Sequence[Question], frames: int) -> None:
    """Check that the evidence is in frames that exist.

    Raises:
        FieldError: a frame number is too large.
    """
    for number, question in enumerate(questions):
        for place, box in enumerate(question.evidence):
            if box[0] >= frames:
                where = f"questions[{number}].evidence[{place}]"
                raise FieldError(f"{where} is in frame {_short(box[0])}, but there are only frames 0 to {frames - 1}")


def _question(fields: Any, where: str) -> Question:
    if not isinstance(fields, dict):
        raise FieldError(f"{where} must be an object, not {_short(fields)}")
    kind, text = (_text(_required(fields, name, f"{where}.{name}"), f"{where}.{name}") for name in ("type", "text"))
    answer = _text_or_number(_required(fields, "answer", f"{where}.answer"), f"{where}.answer")
    choices = _choices(_required(fields, "choices", f"{where}.choices"), answer, f"{where}.choices")
    listed = _required(fields, "evidence", f"{where}.evidence")
    if not isinstance(listed, list):
        raise FieldError(f"{where}.evidence must be a list of boxes, not {_short(listed)}")
    boxes = (_box(box, f"{where}.evidence[{number}]") for number, box in enumerate(listed))
    return Question(kind, text, answer, choices, tuple(boxes))


def _choices(values: Any, answer: str, where: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise FieldError(f"{where} must be a list, [] for free text, not {_short(values)}")
    choices = tuple(_text_or_number(value, f"{where}[{number}]") for number, value in enumerate(values))
    if len(set(choices)) < len(choices):
        twice = next(choice for choice in choices if choices.count(choice) > 1)
        raise FieldError(f"{where} has {_short(twice)} twice")
    if choices and answer not in choices:
        raise FieldError(
            f"{where} must have the answer {_short(answer)} among them, or be [] for free text, not {_short(values)}"
        )
    return choices


def _box(values: Any, where: str) -> Box:
    if not isinstance(values, list) or len(values) != 5:
        raise FieldError(f"{where} must be [frame, y0, x0, y1, x1], not {_short(values)}")
    frame, (y0, x0, y1, x1) = _number(values[0]), map(_number, values[1:])
    if not frame.is_integer() or frame < 0:
        raise FieldError(f"{where} must begin with a frame number, 0 or more, not {_short(values[0])}")
    if not all(-ROUNDING <= side <= 1 + ROUNDING for side in (y0, x0, y1, x1)):
        pixels = " (divide pixels by the height and width)" if max(y0, x0, y1, x1) > 1 else ""
        raise FieldError(f"{where} must have sides from 0 to 1, fractions of the frame{pixels}, not {_short(values)}")
    if y0 >= y1 or x0 >= x1:
        raise FieldError(f"{where} must be [frame, y0, x0, y1, x1] with y0 < y1 and x0 < x1, not {_short(values)}")
    return int(values[0]), y0, x0, y1, x1


def _required(fields: dict[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        hint = " (an empty list if the answer is open)" if name == "choices" else ""
        raise FieldError(f"{where} is missing{hint}")
    return fields[name]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise FieldError(f"{where} must be text, not {_short(value)}")
    if all(category(letter) in INVISIBLE for letter in value):
        raise FieldError(
            f"{where} is empty" if not value.strip() else f"{where} has no visible letter: {_short(value)}"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # tokenizers refuse what UTF-8 cannot encode
        raise FieldError(f"{where} has half of a surrogate pair: {_short(value)}")
    return value


def _text_or_number(value: Any, where: str) -> str:
    if type(value) in NUMBERS and math.isfinite(_number(value)):
        return str(value)
    if not isinstance(value, str):
        raise FieldError(f"{where} must be text or a number, not {_short(value)}")
    return _text(value, where)


def _number(value: Any) -> float:
    """Return a JSON number as float, or NaN for anything else; an integer that is too large becomes infinite."""
    if type(value) not in NUMBERS:
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _short(value: Any) -> str:
    """Return a value cut to fit into a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return SHORT.repr(value)
