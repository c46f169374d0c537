"""Annotated clips: what a row of annotations must say, and what may be trusted about the file it names.

An annotation file may have been downloaded, so a file is a path below the folder of clips, whatever it says.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from framefold.errors import DataError

from .annotations import COLUMNS, Annotation, Damaged, seconds, text

VIDEOS = (".mp4", ".mkv", ".webm", ".mov")

# What chat templates write between the turns and in place of a video: inside a question it would break the prompt.
SPECIAL = re.compile(r"<\|[^<>]*\|>|<(image|video|audio|img|vid|s|/s|unk|pad|bos|eos|image_pad|video_pad)>", re.I)

SHOWN = 20  # problems that an error names


@dataclass(frozen=True)
class ClipQuestion:
    """A question of a clip's own annotation.

    start, end: seconds of the file where the answer is seen.
    """

    text: str
    answer: str
    choices: tuple[str, ...]
    start: float | None
    end: float | None


@dataclass(frozen=True)
class Clip:
    """A part of a video file and what happens in it.

    Attributes:
        id: unique. file: path below the folder of clips, with forward slashes.
        caption: one line. label: what counting questions count, "" for none.
        start, end: seconds of the file; end is infinite until the file was looked at, where its end was meant.
        questions: of its own.
        where: row of the annotation, for messages.
        source: SHA-256 of the file. stamp: of the file when that was computed. length: frames it is stored in.
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
    """Rows and clips that cannot be used.

    Attributes:
        most: share of the rows that may be in here. rows: how many there are.
    """

    most: float
    rows: int
    texts: list[str] = field(default_factory=list)

    def check(self) -> None:
        """End here if it is too many.

        Raises:
            DataError: with the first of them.
        """
        if len(self.texts) <= self.most * self.rows:
            return
        shown = "; ".join(self.texts[:SHOWN])
        more = f"; and {len(self.texts) - SHOWN} more" if len(self.texts) > SHOWN else ""
        raise DataError(
            f"{len(self.texts)} of {self.rows} annotations cannot be used, more than max_damaged = {self.most:g} "
            f"allows: {shown}{more}"
        )


def read_clips(folder: Path, rows: Sequence[Annotation], problems: Problems) -> list[Clip]:
    """The clips that rows of annotations name, in order of their ids; the files are not opened.

    Raises:
        DataError: no row has a file or a caption, two clips have the same id, or a path leads out of the folder.
    """
    for name in ("file", "caption"):
        if not any(name in row.fields or "" in row.fields for row in rows):
            raise DataError(f"{rows[0].where.partition(',')[0]} has no column {name!r}; it needs file and caption")
    clips: dict[str, Clip] = {}
    for row in rows:
        try:
            clip = _clip(folder, row)
        except Damaged as error:
            problems.texts.append(f"{row.where}: {error}")
            continue
        if clip.id in clips:
            raise DataError(
                f"{row.where}: the id {clip.id!r} is also that of {clips[clip.id].where}: give each its own"
            )
        clips[clip.id] = clip
    return sorted(clips.values(), key=lambda clip: clip.id)


def unknown_columns(rows: Sequence[Annotation]) -> list[str]:
    """Columns that nothing is done with, sorted."""
    return sorted({name for row in rows for name in row.fields} - {*COLUMNS, ""})


def _clip(folder: Path, row: Annotation) -> Clip:
    fields = row.fields
    if "" in fields:  # columns without a name: of a CSV row that is too long
        raise Damaged(str(fields[""]))
    file = _inside(folder, row)
    start, end = seconds(fields, "start"), seconds(fields, "end")
    caption = _worded(fields, "caption")
    if start is not None and end is not None and start >= end:
        raise Damaged(f"{file}: start {start:g} must be before end {end:g}")
    span = "" if start is None and end is None else f"#{start or 0:.10g}-{'' if end is None else format(end, '.10g')}"
    label = text(fields, "label") or text(fields, "category")
    if label and not normal(label):
        raise Damaged(f"{file}: the label {label!r} has no letters")
    own = tuple(_question(one, start or 0.0, end) for one in _listed(fields.get("qa")))
    first, last = start or 0.0, float("inf") if end is None else end
    return Clip(text(fields, "id") or file + span, file, caption, label, first, last, own, row.where)


def _inside(folder: Path, row: Annotation) -> str:
    """The path of a row's file, which must lie in the folder and be a video.

    Raises:
        DataError: it leads out of the folder.
    """
    name = text(row.fields, "file")
    if not name:
        raise Damaged("no file")
    path, foreign = PurePosixPath(name), PureWindowsPath(name)
    if foreign.drive or foreign.root or ".." in (*path.parts, *foreign.parts):
        raise DataError(f"{row.where}: {name!r} must be a path inside {folder}, without '..'")
    if path.suffix.lower() not in VIDEOS:
        raise Damaged(f"{name} is no {', '.join(VIDEOS)}")
    try:
        inside = (folder / path).resolve().is_relative_to(folder.resolve())
        there = (folder / path).is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, or a link to itself
        raise Damaged(f"{name:.80} cannot be read: {error}") from error
    if not inside:
        raise DataError(f"{row.where}: {name!r} is a link out of {folder}: give the folder that it leads to as --clips")
    if not there:
        raise Damaged(f"{name} does not exist")
    return str(path)


def _worded(fields: dict[str, Any], name: str) -> str:
    """A text that goes into questions."""
    found = text(fields, name)
    if not normal(found):
        raise Damaged(f"{name} is empty")
    special = SPECIAL.search(found)
    if special:
        raise Damaged(f"{name} holds {special[0]}, which chat templates read as a command")
    return found


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):  # in a CSV file
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"qa is no JSON: {error}") from error
    if value is None or isinstance(value, list):
        return value or []
    raise Damaged(f"qa must be a list of questions, not {value!r:.40}")


def _question(fields: Any, first: float, last: float | None) -> ClipQuestion:
    if not isinstance(fields, dict):
        raise Damaged(f"qa holds {fields!r:.40}, not an object with question and answer")
    asked, answer = _worded(fields, "question"), _worded(fields, "answer")
    listed = fields.get("choices") or []
    if not isinstance(listed, list):
        raise Damaged(f"choices must be a list, not {listed!r:.40}")
    choices = tuple(_worded({"choices": choice}, "choices") for choice in listed)
    different = len({normal(choice) for choice in choices})
    if choices and (answer not in choices or not 2 <= different == len(choices) <= 26):
        raise Damaged(f"the choices must be 2 to 26 different ones with the answer {answer!r:.40} among them")
    start, end = seconds(fields, "start"), seconds(fields, "end")
    low, high = first if start is None else start, last if end is None else end
    if low < first or high is not None and (low >= high or last is not None and high > last):
        raise Damaged(f"the question {asked!r:.40} is about {start} to {end} s, which is not inside the clip")
    return ClipQuestion(asked, answer, choices, start, end)


@functools.cache
def normal(words: str) -> str:
    """A text without case, punctuation and double blanks: texts that are the same then are taken for the same."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", words).casefold()))


def alike(one: str, other: str) -> bool:
    """Whether two captions may be true of the same clip, as far as words tell: one says no more than the other."""
    first, second = normal(one), normal(other)
    if first in second or second in first:
        return True
    few, many = sorted((_words(first), _words(second)), key=len)
    return few <= many


@functools.cache
def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHARES = {"train": 0.8, "val": 0.9, "test": 1.0}  # ends of their parts of [0, 1)


def splits(clips: Iterable[Clip], sources: Mapping[str, str]) -> dict[str, str]:
    """The split of every clip whose file can be read, by id.

    Clips of the same file, or of copies of it, have the same: a hash of the first of their ids decides. Nothing else
    does, so other settings never move a clip.
    """
    first: dict[str, str] = {}
    known = [clip for clip in clips if clip.file in sources]
    for clip in known:
        source = sources[clip.file]
        first[source] = min(clip.id, first.get(source, clip.id))
    names = {source: _split(key) for source, key in first.items()}
    return {clip.id: names[sources[clip.file]] for clip in known}


def _split(key: str) -> str:
    word = hashlib.sha256(f"framefold split {key}".encode()).digest()[:8]
    return next(name for name, end in SHARES.items() if int.from_bytes(word) < end * 2**64)
