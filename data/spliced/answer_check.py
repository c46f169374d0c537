"""Independent answers to questions about spliced videos, from the text of a question and the metadata of the video.

Apart from the wording of questions this module shares nothing with the generation of questions, so each checks the
other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from framefold.data.question import Question

from .clips import normalize_caption, similar_captions

Metadata = dict[str, Any]


def correct_answers(question: Question, metadata: Metadata) -> list[str]:
    """Return all answers that the metadata of a video permits.

    Args:
        question: only its type and text are used.
        metadata: json of the video; only "captions" and "times" are used.

    Returns:
        One answer if the question is well-defined; otherwise several or none.
    """
    return _SOLVERS[question.type](question.text, metadata)


def _quoted(text: str) -> str:
    """Return the text between the first and the last quotation mark of the first line."""
    found = re.search(r'"(.*)"\?$', text.partition("\n")[0])
    return found[1] if found else ""


def _options(text: str) -> dict[str, str]:
    """Return the options at the end of a question by letter."""
    found: dict[str, str] = {}
    for line in reversed(text.split("\n")):
        option = re.match(r"([A-Z])\. (.*)", line)
        if option is None or option[1] in found:
            break
        found[option[1]] = option[2]
    return found


def _positions(text: str, metadata: Metadata) -> list[int]:
    """Return the positions in the video of all captions that are similar to a text."""
    return [i for i, caption in enumerate(metadata["captions"]) if similar_captions(caption["text"], text)]


def _position(text: str, metadata: Metadata) -> int | None:
    """Return the only position of a caption, or None if there are none or several."""
    found = _positions(text, metadata)
    return found[0] if len(found) == 1 else None


def _letters(text: str, is_correct: Callable[[str], bool]) -> list[str]:
    """Return the letters of the correct options."""
    return sorted(letter for letter, option in _options(text).items() if is_correct(option))


def _caption_order(text: str, metadata: Metadata) -> list[str]:
    items = re.findall(r"^\((\d)\) (.*)$", text, re.MULTILINE)
    positions = {number: _position(item, metadata) for number, item in items}
    if None in positions.values() or len(positions) < 2:
        return []
    correct = sorted(positions, key=lambda number: positions[number] or 0)
    return _letters(text, lambda option: re.findall(r"\d", option) == correct)


def _before_after(text: str, metadata: Metadata) -> list[str]:
    position = _position(_quoted(text), metadata)
    if position is None:
        return []
    neighbour = position + (1 if " right after this: " in text else -1)
    if not 0 <= neighbour < len(metadata["captions"]):
        return []
    return _letters(text, lambda option: similar_captions(option, metadata["captions"][neighbour]["text"]))


def _count_clip(text: str, metadata: Metadata) -> list[str]:
    counted = normalize_caption(_quoted(text))
    if text.startswith("How many clips"):
        return [str(sum(normalize_caption(caption["label"]) == counted for caption in metadata["captions"]))]
    equal = sum(normalize_caption(caption["text"]) == counted for caption in metadata["captions"])
    return [str(equal)] if len(_positions(_quoted(text), metadata)) == equal else []


def _needle(text: str, metadata: Metadata) -> list[str]:
    return _letters(text, lambda option: bool(_positions(option, metadata)))


def _moment(text: str, metadata: Metadata) -> list[str]:
    position, frames = _position(_quoted(text), metadata), len(metadata["times"])
    if position is None:
        return []
    first, end = metadata["captions"][position]["frames"]
    inside = [first * 3 >= third * frames and end * 3 <= (third + 1) * frames for third in range(3)]
    names = ("first", "middle", "last")
    return _letters(text, lambda option: any(name in option for name, yes in zip(names, inside, strict=True) if yes))


def _exists(text: str, metadata: Metadata) -> list[str]:
    caption = _quoted(text)
    if any(normalize_caption(other["text"]) == normalize_caption(caption) for other in metadata["captions"]):
        return ["yes"]
    return [] if _positions(caption, metadata) else ["no"]


def _clip_qa(text: str, metadata: Metadata) -> list[str]:
    head = re.match(r"From (\S+) to (\S+) seconds of the video: (.*)", text)
    if head is None:
        return []
    span = [float(head[1]), float(head[2])]
    answers = {
        own["answer"]
        for caption in metadata["captions"]
        if all(abs(a - b) < 0.01 for a, b in zip(caption["seconds"], span, strict=True))
        for own in caption["qa"]
        if own["question"] == head[3]
    }
    if len(answers) != 1 or not _options(text):
        return sorted(answers)
    return _letters(text, lambda option: option in answers)


_SOLVERS: dict[str, Callable[[str, Metadata], list[str]]] = {
    "caption_order": _caption_order,
    "before_after": _before_after,
    "count_clip": _count_clip,
    "needle": _needle,
    "moment": _moment,
    "exists": _exists,
    "clip_qa": _clip_qa,
}
