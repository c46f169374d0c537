"""Results of an ablation in one small file to commit: all but kept tokens and the texts of the host's answers.

Questions are stored once, and the answers of a result as bits, so that accuracies, intervals, tests and all views can
be recomputed from the file without a host.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framefold.errors import ResultsError
from framefold.files import replace_file

from .measures_of_answers import LOSSES

Result = dict[str, Any]

FORMAT = 1

SHARED_COLUMNS = ("video", "draw", "type", "question", "answer", "when", "where")  # equal in all results of a folder

LOST = {"said": "", "purity": None}  # columns that are not stored, and what stands in their place

STEPS = 254  # of a share that is stored in a byte; 255 is None


def write_compact(file: Path, results: Sequence[Result], left_out: Sequence[Result]) -> None:
    """Write results into a file.

    Args:
        file: JSON file to write.
        results: contents of result files that can be compared.
        left_out: contents of files of cells that were left out.
    """
    first = results[0]["answers"]
    questions = {name: first[name] for name in SHARED_COLUMNS if name in first}
    content = {"format": FORMAT, "questions": {name: _table(column) for name, column in questions.items()}}
    cells = ",\n".join(json.dumps(_pack(result), separators=(",", ":")) for result in results)
    others = ",\n".join(json.dumps(one, separators=(",", ":")) for one in left_out)
    head = json.dumps(content, separators=(",", ":"))[:-1]
    text = f'{head},\n"cells":[\n{cells}\n],\n"left_out":[{others}]}}\n'  # a line per result
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda temporary: temporary.write_text(text))


def read_compact(file: Path) -> tuple[list[Result], list[Result]]:
    """Return the results of a file, and the cells that were left out, as their own files would have them.

    Raises:
        ResultsError: the file is damaged or has another format.
    """
    try:
        content = json.loads(file.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, not {FORMAT}")
        questions = {name: [table["values"][i] for i in table["rows"]] for name, table in content["questions"].items()}
        return [_unpack(cell, questions) for cell in content["cells"]], content["left_out"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, zlib.error) as error:
        raise ResultsError(f"{file} is damaged ({error}): write it again from the results of the ablation") from error


def _table(column: Sequence[Any]) -> dict[str, Any]:
    """Return a column as its different values, and the number of the value in each row."""
    values = list(dict.fromkeys(column))
    places = {value: number for number, value in enumerate(values)}
    return {"values": values, "rows": [places[value] for value in column]}


def _pack(result: Result) -> Result:
    columns = result["answers"]
    packed: dict[str, Any] = {"correct": _encode(np.array(columns["correct"], dtype=np.uint8))}
    packed["recall"] = _shares(columns["recall"])
    if "again" in columns:
        packed["again"] = _shares(columns["again"])
    if LOSSES in columns:
        packed[LOSSES] = _pack_losses(columns[LOSSES])
    same = len(set(columns["tokens"])) == 1
    packed["tokens"] = columns["tokens"][0] if same else columns["tokens"]
    return {**result, "answers": packed, "kept": [], "drill": 0}


def _unpack(cell: Result, questions: dict[str, list[Any]]) -> Result:
    packed, count = cell["answers"], cell["n"]
    columns: dict[str, list[Any]] = {name: list(column) for name, column in questions.items()}
    columns |= {name: [value] * count for name, value in LOST.items()}
    columns["correct"] = [bool(one) for one in _decode(packed["correct"])]
    columns["recall"] = _read_shares(packed["recall"])
    if "again" in packed:
        columns["again"] = [None if one is None else bool(one) for one in _read_shares(packed["again"])]
    if LOSSES in packed:
        columns[LOSSES] = _read_losses(packed[LOSSES])
    columns["tokens"] = packed["tokens"] if isinstance(packed["tokens"], list) else [packed["tokens"]] * count
    if any(len(column) != count for column in columns.values()):
        raise ValueError(f"columns that do not have {count} answers")
    return {**cell, "answers": columns}


def _shares(values: Sequence[float | None]) -> str:
    rounded = [255 if value is None else round(STEPS * value) for value in values]
    return _encode(np.array(rounded, dtype=np.uint8))


def _read_shares(text: str) -> list[float | None]:
    return [None if one == 255 else one / STEPS for one in _decode(text)]


def _pack_losses(column: Sequence[Sequence[float] | None]) -> list[str]:
    """Return losses, which are rounded to a thousandth, as the bytes of whole numbers, and how many each answer has."""
    lengths = np.array([len(losses or ()) for losses in column], dtype="<u4")
    values = np.array([round(1000 * one) for losses in column for one in losses or ()], dtype="<u4")
    return [_encode(lengths.view(np.uint8)), _encode(values.view(np.uint8))]


def _read_losses(texts: Sequence[str]) -> list[list[float] | None]:
    lengths, values = (np.array(_decode(text), dtype=np.uint8).view("<u4").tolist() for text in texts)
    losses = iter(values)
    return [[next(losses) / 1000 for _ in range(length)] or None for length in lengths]


def _encode(numbers: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(numbers.tobytes(), 9)).decode()


def _decode(text: str) -> list[int]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).tolist()
