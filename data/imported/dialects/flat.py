"""Flat rows, as in CSV: a video with a question and its answer, or with a caption, perhaps of a part of the video."""

from __future__ import annotations

import json
from typing import Any

from .captions import caption_row
from .damage import RefusedRow
from .dialect import Dialect, ImportedRow, Row
from .options import letter_options
from .texts import CHOICE, interval_of, make_turn, text_of
from .turns import one_video

VIDEO = ("video", "video_path", "video_name", "video_id", "videoid", "file")

CAPTION = ("caption", "text", "name")  # of MSR-VTT and WebVid

OPTIONS = ("options", "choices", "candidates")


class Flat(Dialect):
    """Rows with ``video`` and ``question``, ``answer`` and perhaps ``options``, or ``caption``.

    ``start`` and ``end`` may name the part of the video that is asked about. Options are a list, also as JSON text, or
    texts separated by ``|``.
    """

    name = "csv"
    summary = "CSV (or flat JSON): video with question, answer and options, or caption, and perhaps start and end"

    def matches(self, row: Row) -> bool:
        asked = "question" in row and "answer" in row
        return any(name in row for name in VIDEO) and (asked or any(name in row for name in CAPTION))

    def convert(self, row: Row) -> ImportedRow:
        video, start, end = one_video(row, VIDEO), row.get("start"), row.get("end")
        if row.get("question") in (None, ""):
            caption = next((row[name] for name in CAPTION if row.get(name)), None)
            if caption is None and "question" in row:
                raise RefusedRow("empty_question", "the question is empty")
            return caption_row(video, [(caption or "", start, end)])
        question, answer = (text_of(row.get(name), name) for name in ("question", "answer"))
        seconds = None if start is None and end is None else interval_of(start, end)
        options = _options(next((row[name] for name in OPTIONS if row.get(name)), None))
        if not options:
            return ImportedRow(video, ((make_turn(question, answer, seconds=seconds),),))
        text, letter = letter_options(question, options, answer)
        choices = tuple(line[0] for line in text.split("\n")[-len(options) :])
        return ImportedRow(video, ((make_turn(text, letter, CHOICE, choices, seconds),),))


def _options(value: Any) -> list[str]:
    """Return the texts of options."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value) if value.lstrip().startswith("[") else value.split("|")
        except (ValueError, RecursionError):
            raise RefusedRow("wrong_options", f"{value!r:.60} is no list") from None
        value = parsed
    if value is None:
        return []
    if not isinstance(value, list):
        raise RefusedRow("wrong_options", f"options are {value!r:.60}")
    return [" ".join(text_of(option, "an option").split()) for option in value]
