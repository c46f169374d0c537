"""Answers to questions about spliced videos, found anew: from the words of a question and the annotations alone.

Shares nothing with what made the question but the sentences, so that each checks the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from framefold.data.question import Question

from .clips import alike, normal

Notes = dict[str, Any]


def right_answers(question: Question, notes: Notes) -> list[str]:
    """All answers that the annotations of a video allow.

    Args:
        question: its type and text are read, its answer is not.
        notes: "captions", "times".

    Returns:
        One answer if the question is a good one; more, or none, if it is not.
    """
    return _FINDERS[question.type](question.text, notes)


def _quoted(text: str) -> str:
    """What stands between the first and the last quotation mark of the first line."""
    found = re.search(r'"(.*)"\?$', text.partition("\n")[0])
    return found[1] if found else ""


def _options(text: str) -> dict[str, str]:
    """The options at the end of a question, by letter."""
    found: dict[str, str] = {}
    for line in reversed(text.split("\n")):
        option = re.match(r"([A-Z])\. (.*)", line)
        if option is None or option[1] in found:
            break
        found[option[1]] = option[2]
    return found


def _places(text: str, notes: Notes) -> list[int]:
    """Where in the row of clips a caption stands, or one that may mean the same."""
    return [place for place, caption in enumerate(notes["captions"]) if alike(caption["text"], text)]


def _place(text: str, notes: Notes) -> int | None:
    found = _places(text, notes)
    return found[0] if len(found) == 1 else None


def _letters(text: str, is_right: Callable[[str], bool]) -> list[str]:
    return sorted(letter for letter, option in _options(text).items() if is_right(option))


def _order(text: str, notes: Notes) -> list[str]:
    items = re.findall(r"^\((\d)\) (.*)$", text, re.MULTILINE)
    places = {number: _place(item, notes) for number, item in items}
    if None in places.values() or len(places) < 2:
        return []
    right = sorted(places, key=lambda number: places[number] or 0)
    return _letters(text, lambda option: re.findall(r"\d", option) == right)


def _neighbour(text: str, notes: Notes) -> list[str]:
    place = _place(_quoted(text), notes)
    if place is None:
        return []
    at = place + (1 if " right after this: " in text else -1)
    if not 0 <= at < len(notes["captions"]):
        return []
    return _letters(text, lambda option: alike(option, notes["captions"][at]["text"]))


def _count(text: str, notes: Notes) -> list[str]:
    what = _quoted(text)
    if text.startswith("How many clips"):
        return [str(sum(normal(caption["label"]) == normal(what) for caption in notes["captions"]))]
    same, found = [normal(caption["text"]) == normal(what) for caption in notes["captions"]], _places(what, notes)
    return [str(sum(same))] if len(found) == sum(same) else []


def _needle(text: str, notes: Notes) -> list[str]:
    return _letters(text, lambda option: bool(_places(option, notes)))


def _moment(text: str, notes: Notes) -> list[str]:
    place, frames = _place(_quoted(text), notes), len(notes["times"])
    if place is None:
        return []
    first, end = notes["captions"][place]["frames"]
    inside = [first * 3 >= third * frames and end * 3 <= (third + 1) * frames for third in range(3)]
    names = ("first", "middle", "last")
    return _letters(text, lambda option: any(name in option for name, yes in zip(names, inside, strict=True) if yes))


def _exists(text: str, notes: Notes) -> list[str]:
    what = _quoted(text)
    same = any(normal(caption["text"]) == normal(what) for caption in notes["captions"])
    return ["yes"] if same else [] if _places(what, notes) else ["no"]


def _own(text: str, notes: Notes) -> list[str]:
    head = re.match(r"From (\S+) to (\S+) seconds of the video: (.*)", text)
    if head is None:
        return []
    span = [float(head[1]), float(head[2])]
    answers = {
        own["answer"]
        for caption in notes["captions"]
        if all(abs(a - b) < 0.01 for a, b in zip(caption["seconds"], span, strict=True))
        for own in caption["qa"]
        if own["question"] == head[3]
    }
    if len(answers) != 1 or not _options(text):
        return sorted(answers)
    return _letters(text, lambda option: option in answers)


_FINDERS: dict[str, Callable[[str, Notes], list[str]]] = {
    "caption_order": _order,
    "before_after": _neighbour,
    "count_clip": _count,
    "needle": _needle,
    "moment": _moment,
    "exists": _exists,
    "clip_qa": _own,
}
