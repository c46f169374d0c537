"""Annotated clips: validation of annotations, comparison of captions, and splits.

An annotation file may have been downloaded, so the files that it names must be inside the folder of clips.
"""

from __future__ import annotations

import functools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from framefold.data.question import SPECIAL_TOKEN
from framefold.errors import DataError
from framefold.files import text_digest

from .annotations import COLUMNS, Annotation, UnusableClip, seconds_field, text_field

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov")

MAX_LISTED = 20  # problems that an error message lists


@dataclass(frozen=True)
class ClipQuestion:
    """A question in the annotation of a clip.

    Attributes:
        text: the question.
        answer: the expected answer.
        choices: possible answers, or empty.
        start: second of the file from which the answer is visible; None for the start of the clip.
        end: second of the file until which the answer is visible; None for the end of the clip.
    """

    text: str
    answer: str
    choices: tuple[str, ...]
    start: float | None
    end: float | None


@dataclass(frozen=True)
class Clip:
    """A part of a video file, with a description of its contents.

    Attributes:
        id: unique name.
        file: path relative to the folder of clips, with forward slashes.
        caption: one line.
        label: what counting questions count, or "".
        start: start in seconds of the file.
        end: end in seconds of the file; infinite for the end of a file that has not been probed.
        questions: questions in its annotation.
        where: row of the annotation, for messages.
        source: SHA-256 of the file.
        stamp: file stamp when the SHA-256 was computed (see :func:`.probe.file_stamp`).
        length: number of frames to store.
    """

    id: str
    file: str
    caption: str
    label: str
    start: float
    end: float
    questions: tuple[ClipQuestion, ...]
    where: str
    source: str = ""
    stamp: tuple[int, ...] = ()
    length: int = 0


@dataclass
class Problems:
    """Messages about annotations that cannot be used.

    Attributes:
        max_damaged: fraction of the rows that may be unusable.
        rows: number of rows.
        texts: one message per unusable row.
    """

    max_damaged: float
    rows: int
    texts: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raise an error if too many rows are unusable.

        Raises:
            DataError: the message lists the first of them.
        """
        if len(self.texts) <= self.max_damaged * self.rows:
            return
        listed = "; ".join(self.texts[:MAX_LISTED])
        more = f"; and {len(self.texts) - MAX_LISTED} more" if len(self.texts) > MAX_LISTED else ""
        raise DataError(
            f"{len(self.texts)} of {self.rows} annotations cannot be used, more than max_damaged = "
            f"{self.max_damaged:g} allows: {listed}{more}"
        )


def read_clips(folder: Path, rows: Sequence[Annotation], problems: Problems) -> list[Clip]:
    """Return the clips that rows of annotations name, in order of their ids; the files are not opened.

    Args:
        folder: folder of clips.
        rows: rows of the annotation file.
        problems: receives a message for every row that cannot be used.

    Raises:
        DataError: no row has a file or a caption, two clips have the same id, or a path leads out of the folder.
    """
    for name in ("file", "caption"):
        if not any(name in row.fields or "" in row.fields for row in rows):
            raise DataError(f"{rows[0].where.partition(',')[0]} has no column {name!r}; file and caption are required")
    clips: dict[str, Clip] = {}
    for row in rows:
        try:
            clip = _clip(folder, row)
        except UnusableClip as error:
            problems.texts.append(f"{row.where}: {error}")
            continue
        if clip.id in clips:
            raise DataError(
                f"{row.where}: the id {clip.id!r} is also used by {clips[clip.id].where}: give every clip a unique id"
            )
        clips[clip.id] = clip
    return sorted(clips.values(), key=lambda clip: clip.id)


def unknown_columns(rows: Sequence[Annotation]) -> list[str]:
    """Return the names of columns that are not used, sorted."""
    return sorted({name for row in rows for name in row.fields} - {*COLUMNS, ""})


def _clip(folder: Path, row: Annotation) -> Clip:
    fields = row.fields
    if "" in fields:  # a CSV row has more fields than the header
        raise UnusableClip(str(fields[""]))
    file = _clip_path(folder, row)
    start, end = seconds_field(fields, "start"), seconds_field(fields, "end")
    caption = _required_text(fields, "caption")
    if start is not None and end is not None and start >= end:
        raise UnusableClip(f"{file}: start {start:g} must be before end {end:g}")
    span = "" if start is None and end is None else f"#{start or 0:.10g}-{'' if end is None else format(end, '.10g')}"
    label = text_field(fields, "label") or text_field(fields, "category")
    if label and not normalize_caption(label):
        raise UnusableClip(f"{file}: the label {label!r} has no letters or digits")
    questions = tuple(_question(entry, start or 0.0, end) for entry in _question_list(fields.get("qa")))
    first, last = start or 0.0, float("inf") if end is None else end
    return Clip(text_field(fields, "id") or file + span, file, caption, label, first, last, questions, row.where)


def _clip_path(folder: Path, row: Annotation) -> str:
    """Return the path of a row's file, which must be a video inside the folder.

    Raises:
        DataError: it leads out of the folder.
    """
    name = text_field(row.fields, "file")
    if not name:
        raise UnusableClip("file is empty")
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    drive = windows.drive and (windows.root or not os.path.isfile(folder / path))  # "C:", or a name such as "1:30.mp4"
    if drive or windows.root or ".." in (*path.parts, *windows.parts):
        raise DataError(f"{row.where}: {name!r} must be a path inside {folder}, without '..'")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise UnusableClip(f"{name} does not end in {', '.join(VIDEO_SUFFIXES)}")
    try:
        inside = (folder / path).resolve().is_relative_to(folder.resolve())
        exists = (folder / path).is_file()
    except (OSError, RuntimeError) as error:  # the name is too long, or a link to itself
        raise UnusableClip(f"{name:.80} cannot be read: {error}") from error
    if not inside:
        raise DataError(f"{row.where}: {name!r} is a link out of {folder}: pass the folder it points to as --clips")
    if not exists:
        raise UnusableClip(f"{name} does not exist")
    return str(path)


def _required_text(fields: dict[str, Any], name: str) -> str:
    """Return a text that will be part of questions."""
    value = text_field(fields, name)
    if not normalize_caption(value):
        raise UnusableClip(f"{name} is empty")
    special = SPECIAL_TOKEN.search(value)
    if special:
        raise UnusableClip(f"{name} contains {special[0]}, which chat templates interpret as a special token")
    return value


def _question_list(value: Any) -> list[Any]:
    if isinstance(value, str):  # in a CSV file
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise UnusableClip(f"qa is not valid JSON: {error}") from error
    if value is None or isinstance(value, list):
        return value or []
    raise UnusableClip(f"qa must be a list of questions, not {value!r:.40}")


def _question(fields: Any, first: float, last: float | None) -> ClipQuestion:
    if not isinstance(fields, dict):
        raise UnusableClip(f"qa contains {fields!r:.40}, not an object with question and answer")
    question, answer = _required_text(fields, "question"), _required_text(fields, "answer")
    listed = [] if fields.get("choices") is None else fields["choices"]
    if not isinstance(listed, list):
        raise UnusableClip(f"choices must be a list, not {listed!r:.40}")
    choices = tuple(_required_text({"choices": choice}, "choices") for choice in listed)
    distinct = len({normalize_caption(choice) for choice in choices})
    if choices and (answer not in choices or not 2 <= distinct == len(choices) <= 26):
        raise UnusableClip(f"choices must be 2 to 26 distinct texts, with the answer {answer!r:.40} among them")
    start, end = seconds_field(fields, "start"), seconds_field(fields, "end")
    low, high = first if start is None else start, last if end is None else end
    if low < first or high is not None and (low >= high or last is not None and high > last):
        raise UnusableClip(f"the question {question!r:.40} is about {start} to {end} s, which is not inside the clip")
    return ClipQuestion(question, answer, choices, start, end)


@functools.cache
def normalize_caption(words: str) -> str:
    """Return a text without case, punctuation and repeated blanks; captions that are equal then are the same."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", words).casefold()))


def similar_captions(one: str, other: str) -> bool:
    """Return whether two captions may describe the same clip: one contains all words of the other."""
    first, second = normalize_caption(one), normalize_caption(other)
    if first in second or second in first:
        return True
    fewer, more = sorted((_words(first), _words(second)), key=len)
    return fewer <= more


@functools.cache
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPLIT_ENDS = {"train": 0.8, "val": 0.9, "test": 1.0}  # upper ends of their parts of [0, 1)


def assign_splits(clips: Iterable[Clip], sources: Mapping[str, str]) -> dict[str, str]:
    """Return the split of every clip whose file can be read, by id of the clip.

    The split depends only on a hash of the clip's id, or of the first id among all clips of the same file and of its
    copies, so no setting moves a clip to another split.

    Args:
        clips: clips of all splits.
        sources: SHA-256 of the files that can be read, by file.
    """
    first: dict[str, str] = {}
    readable = [clip for clip in clips if clip.file in sources]
    for clip in readable:
        source = sources[clip.file]
        first[source] = min(clip.id, first.get(source, clip.id))
    names = {source: _split(key) for source, key in first.items()}
    return {clip.id: names[sources[clip.file]] for clip in readable}


def _split(key: str) -> str:
    word = int(text_digest(f"framefold split {key}")[:16], 16)
    return next(name for name, end in SPLIT_ENDS.items() if word < end * 2**64)
