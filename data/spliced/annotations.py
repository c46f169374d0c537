"""Reading annotation files of clips: JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

from framefold.errors import DataError

SUFFIXES = (".json", ".jsonl", ".csv")

COLUMNS = ("file", "caption", "id", "start", "end", "label", "category", "qa")

MAX_FIELD_CHARACTERS = 1_000_000  # of a CSV field

LINE_BREAKS = ("Cc", "Zl", "Zp")  # Unicode categories of line breaks and control characters


class UnusableClip(Exception):
    """A row of annotations, or the clip that it names, cannot be used."""


@dataclass(frozen=True)
class Annotation:
    """One row of an annotation file.

    Attributes:
        where: file and line or entry, for messages.
        fields: values by column.
    """

    where: str
    fields: dict[str, Any]


def find_annotations(folder: Path, name: str | None) -> Path:
    """Return the annotation file: the one named, or the only one directly in the folder of clips.

    Raises:
        DataError: there is none, or more than one.
    """
    if name is not None:
        if not Path(name).is_file() or Path(name).suffix.lower() not in SUFFIXES:
            raise DataError(f"{name} is not an annotation file: it must exist and end in {', '.join(SUFFIXES)}")
        return Path(name)
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(
            f"{folder} must have one annotation file ({', '.join(SUFFIXES)}), it has {names}: give --annotations FILE"
        )
    return found[0]


def read_annotations(path: Path) -> list[Annotation]:
    """Read all rows of an annotation file.

    JSON is a list of objects, or an object that maps files to captions, objects or lists of objects.

    Raises:
        DataError: the file cannot be read, is not UTF-8, does not have the format of its suffix, or has no rows.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    readers = {".json": _json, ".jsonl": _lines, ".csv": _csv}
    rows = list(readers[path.suffix.lower()](text, path))
    if not rows:
        raise DataError(f"{path} annotates no clip")
    return rows


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}") from error


def _json(text: str, path: Path) -> Iterator[Annotation]:
    content = _parse(text, str(path))
    if isinstance(content, dict):
        content = _by_file(content)
    elif not isinstance(content, list):
        raise DataError(f"{path} must be a list of objects or an object by file name, not {type(content).__name__}")
    for number, fields in enumerate(content, start=1):
        yield _row(f"{path}, entry {number}", fields)


def _by_file(content: dict[str, Any]) -> Iterable[Any]:
    for file, value in content.items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict):
                yield entry | {"file": file}
            else:
                yield {"file": file, "caption": entry}


def _lines(text: str, path: Path) -> Iterator[Annotation]:
    # Split at line feeds only: JSON text may contain other characters that str.splitlines treats as line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _row(f"{path}, line {number}", _parse(line, f"{path}, line {number}"))


def _csv(text: str, path: Path) -> Iterator[Annotation]:
    previous_limit = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) != len(names):
            raise DataError(f"{path} has a column twice: {', '.join(names)}")
        line = reader.line_num + 1  # a row may span several lines; messages name its first
        for values in reader:
            if any(value.strip() for value in values):
                yield Annotation(f"{path}, line {line}", _csv_fields(names, values))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not valid CSV: {error}") from error
    finally:
        csv.field_size_limit(previous_limit)


def _csv_fields(names: list[str], values: list[str]) -> dict[str, Any]:
    if len(values) > len(names):
        return {"": f"has {len(values)} fields, but the header has {len(names)}: quote text that contains commas"}
    return {name: value for name, value in zip(names, values, strict=False) if value.strip()}


def _row(where: str, fields: Any) -> Annotation:
    if not isinstance(fields, dict):
        raise DataError(f"{where} must be an object with file and caption, not {type(fields).__name__}")
    return Annotation(where, {name: value for name, value in fields.items() if value is not None})


def seconds_field(fields: dict[str, Any], name: str) -> float | None:
    """Return a time in a row, or None if it has none.

    Raises:
        UnusableClip: the value is not a number, not finite or negative.
    """
    value = fields.get(name)
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise UnusableClip(f"{name} must be seconds, 0 or more, not {value!r:.40}")
    return number


def text_field(fields: dict[str, Any], name: str) -> str:
    """Return a text in a row as one line, or "" if it has none.

    Raises:
        UnusableClip: the value is not text, or cannot be encoded as UTF-8.
    """
    value = fields.get(name, "")
    if (isinstance(value, float) and math.isfinite(value)) or type(value) is int:
        value = str(value)
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UnusableClip(f"{name} must be text, not {value!r:.40}")
    return " ".join("".join(" " if category(letter) in LINE_BREAKS else letter for letter in value).split())
