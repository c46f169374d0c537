"""Rows of annotation files of any size, one at a time: JSON, JSON lines or CSV.

JSON is parsed as it is read, so memory does not grow with the file. Damage of a row is returned in its place.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from framefold.errors import DataError

from .dialects.damage import RefusedRow

MAX_LINE = 16_000_000  # bytes of a line of JSON or a field of CSV

BOM = b"\xef\xbb\xbf"

SEPARATORS = {".csv": ",", ".tsv": "\t"}

Chosen = Callable[[int], bool]  # whether a row, by its number in the file, is to be read

Read = Callable[[int], Any]  # called with numbers of bytes that were read


@dataclass(frozen=True)
class SourceRow:
    """A row of an annotation file.

    Attributes:
        where: file and line or entry, for messages.
        fields: its fields, or why it has none.
    """

    where: str
    fields: dict[str, Any] | RefusedRow


def find_files(annotations: str) -> list[Path]:
    """Return the files that a path or a glob names, sorted.

    Raises:
        DataError: there are none.
    """
    names = [annotations] if os.path.isfile(annotations) else sorted(glob.glob(annotations, recursive=True))
    files = [Path(name) for name in names if os.path.isfile(name)]
    if not files:
        raise DataError(f"no annotations at {annotations}: give a JSON, JSONL or CSV file, or a glob in quotes")
    return files


def read_rows(path: Path, chosen: Chosen, read: Read = lambda count: None) -> Iterator[SourceRow]:
    """Yield the chosen rows of a file.

    Args:
        path: a list of objects, an object of objects (its keys become the field ``key``), objects in lines, or CSV with
            a header.
        chosen: called once with the number of every row, in order.
        read: called with the numbers of bytes that were read.

    Raises:
        DataError: the file cannot be read, or is none of these.
    """
    try:
        with open(path, "rb") as file:
            if path.suffix.lower() in SEPARATORS:
                yield from _csv_rows(path, _Counted(file, read), chosen)
                return
            start = len(BOM) if file.read(len(BOM)) == BOM else 0
            file.seek(start)
            head = file.read(4096).lstrip()[:1]
            file.seek(start)
            if head == b"[":
                yield from _parsed(path, _Counted(file, read), chosen, "item")
            elif head == b"{" and not _is_lines(file, start):
                yield from _parsed(path, _Counted(file, read), chosen, "")
            else:
                yield from _lines(path, file, chosen, read)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


class _Counted:
    """A binary file that reports how many bytes are read from it."""

    def __init__(self, file: BinaryIO, report: Read) -> None:
        self.file, self.report = file, report

    def read(self, size: int = -1) -> bytes:
        """Read as the file does."""
        block = self.file.read(size)
        self.report(len(block))
        return block

    def lines(self) -> Iterator[str]:
        """Yield lines as text; what is not UTF-8 becomes lone surrogates."""
        for number, line in enumerate(self.file):
            self.report(len(line))
            line = line.removeprefix(BOM) if number == 0 else line
            yield line.decode("utf-8", "surrogateescape")


def _is_lines(file: BinaryIO, start: int) -> bool:
    """Return whether a file that begins with an object has further objects in its lines; the file is rewound."""
    line = file.readline(MAX_LINE)
    rest = next((more for more in itertools.takewhile(bool, iter(file.readline, b"")) if more.strip()), b"")
    file.seek(start)
    if not rest:
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return rest.lstrip().startswith(b"{")  # a damaged first line


def _parsed(path: Path, file: _Counted, chosen: Chosen, prefix: str) -> Iterator[SourceRow]:
    """Yield the entries of a list, or of an object."""
    import ijson

    entries = ijson.items(file, prefix, use_float=True) if prefix else ijson.kvitems(file, "", use_float=True)
    number = -1
    try:
        for number, entry in enumerate(entries):
            if chosen(number):
                yield _checked(f"{path.name}, entry {number + 1}", entry if prefix else _keyed(*entry))
    except (ijson.JSONError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())[:100]
        yield SourceRow(f"{path.name}, entry {number + 2}", RefusedRow("cut_off", text))


def _keyed(key: str, value: Any) -> Any:
    return {"key": key, **value} if isinstance(value, dict) else value


def _lines(path: Path, file: BinaryIO, chosen: Chosen, read: Read) -> Iterator[SourceRow]:
    number = -1
    for line_number in itertools.count(1):
        line = file.readline(MAX_LINE)
        read(len(line))
        if not line:
            return
        complete = line.endswith(b"\n") or len(line) < MAX_LINE
        while not complete:
            more = file.readline(MAX_LINE)
            read(len(more))
            complete = more.endswith(b"\n") or len(more) < MAX_LINE
            line = b""
        if line and not line.strip():
            continue
        number += 1
        if chosen(number):
            yield _checked(f"{path.name}, line {line_number}", _parse(line))


def _parse(line: bytes) -> Any:
    """Return the value of a line, or why it has none."""
    if not line:
        return RefusedRow("too_large", f"a line of more than {MAX_LINE:,} bytes")
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return RefusedRow("not_utf8", str(error)[:100])
    except (ValueError, RecursionError) as error:
        return RefusedRow("not_json", str(error)[:100])


def _csv_rows(path: Path, file: _Counted, chosen: Chosen) -> Iterator[SourceRow]:
    previous = csv.field_size_limit(MAX_LINE)
    reader = csv.reader(file.lines(), delimiter=SEPARATORS[path.suffix.lower()], strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        number = -1
        while True:
            line = reader.line_num + 1  # a row may span several lines; messages name its first
            try:
                values: Any = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                values = RefusedRow("not_csv", str(error))
            if isinstance(values, list) and not any(value.strip() for value in values):
                continue
            number += 1
            if chosen(number):
                row = values if isinstance(values, RefusedRow) else _csv_fields(names, values)
                yield _checked(f"{path.name}, line {line}", row)
    finally:
        csv.field_size_limit(previous)


def _csv_fields(names: list[str], values: list[str]) -> Any:
    if len(values) != len(names):
        return RefusedRow("wrong_columns", f"{len(values)} fields, but the header has {len(names)}")
    if any("\udc80" <= letter <= "\udcff" for value in values for letter in value):
        return RefusedRow("not_utf8", "a field is not UTF-8 text")
    return {name: value for name, value in zip(names, values, strict=True) if value.strip()}


def _checked(where: str, value: Any) -> SourceRow:
    if not isinstance(value, dict | RefusedRow):
        return SourceRow(where, RefusedRow("not_an_object", f"{value!r:.60}"))
    return SourceRow(where, value)
