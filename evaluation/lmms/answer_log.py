"""What every answer took, a line of JSON each, written when it is given: a killed evaluation goes on behind it."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framefold.files import replace_file

Row = dict[str, Any]


class RowFile:
    """Rows on disk by key; without a file, in memory only."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.rows: dict[str, Row] = {row["key"]: row for row in read_answer_log(file)} if file is not None else {}
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in self.rows.values())
        replace_file(file, lambda beside: beside.write_text(lines))  # without a line that a kill cut off

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows[row["key"]] = row
        if self.file is not None:
            with self.file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")


def read_answer_log(file: Path) -> list[Row]:
    """Rows of a file, none where there is none; a line that was cut off is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("key"), str):
            rows.append(row)
    return rows


def key_of(*what: Any) -> str:
    """The key of a row: the same for the same question of the same document."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def efficiency(rows: Sequence[Row]) -> dict[str, Any]:
    """What the answers took together: medians of times, means of tokens, the most memory of any.

    Returns:
        ``{"n": 0}`` for no rows. ``visual_before``, ``visual_after``, ``prompt`` and ``new_tokens`` are means,
        ``retention`` is the share of all visual tokens that was kept, ``prefill_ms``, ``compressor_ms`` and
        ``decode_ms`` (for each further token; None if no answer had one) are medians, ``memory_mib`` is the most.
    """
    if not rows:
        return {"n": 0}

    def mean(name: str) -> float:
        return statistics.fmean(row[name] for row in rows)

    def milliseconds(name: str) -> float | None:
        values = [1000 * row[name] for row in rows if row[name] is not None]
        return statistics.median(values) if values else None

    before, after = (sum(row[name] for row in rows) for name in ("visual_before", "visual_after"))
    return {
        "n": len(rows),
        **{name: mean(name) for name in ("visual_before", "visual_after", "prompt", "new_tokens")},
        "retention": after / before,
        "prefill_ms": milliseconds("prefill"),
        "compressor_ms": milliseconds("compressor"),
        "decode_ms": milliseconds("decode"),
        "memory_mib": max(row["memory"] for row in rows) / 2**20,
    }


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the figures must know."""
    over, sampled = (sum(bool(row[name]) for row in rows) for name in ("over_context", "sampled"))
    said = []
    if over:
        said.append(f"{over} of {len(rows)} full prompts are longer than the host's context; fewer frames, or compact")
    if sampled:
        said.append(f"the task asks for sampled or beam-searched answers ({sampled} times), all of them are greedy")
    return said
