"""Results of an ablation on disk: one JSON file a cell, so that every table can be derived from files.

A cell is a compressor at a budget with a seed, on a host, on held-out videos. Its file holds the settings that went in
and what came out, down to every answer:

- ``accuracy``, ``accuracy_interval``, ``accuracy_micro``, ``accuracy_by_type``, ``n``, ``tokens`` (mean of kept ones),
  ``evidence_recall``, ``evidence_purity`` (see :mod:`.heldout`; None where nothing is annotated).
- ``cost``: what :mod:`.costs` measured.
- ``answers``: columns of equal length, a row a question, in the same order in all cells. ``video`` numbers the videos,
  ``draw`` is the same for twins; ``type``, ``question``, ``answer`` (the right one), ``said`` (by the host),
  ``correct``, ``tokens``, ``recall``, ``purity``.
- ``kept``: of the first ``drill`` videos which tokens entered, an entry a video, or one a question where a method knows
  the question: ``video``, ``key``, ``row`` (of the question among the answers, None: of all about the video), ``grid``
  (T, H, W), ``index`` (anchors in the flattened grid), ``size`` (originals that each stands for, None: one).
- ``settings``, ``versions``, ``git``, ``machine``, ``started``, ``finished``, ``damaged`` (videos left out).
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from framefold.errors import ResultsError
from framefold.evaluation.metrics.statistics import Answers, macro_interval
from framefold.files import replace_file

from .measures import required_costs
from .provenance import git_state, machine, now, versions
from .settings import Settings, check_comparable

SCHEMA = 3

FOLDER = "cells"

COLUMNS = ("video", "draw", "type", "question", "answer", "said", "correct", "tokens", "recall", "purity")

MEASURED = ("answers", "n", "tokens", "cost", "kept", "drill")

COSTS = (*required_costs(), "full_prefill_ms", "memory_of")


@dataclass(frozen=True)
class Outcome:
    """What running a cell gave.

    Attributes:
        rows: every answer, with the fields of COLUMNS.
        cost: with the fields of COSTS.
        kept: see the module. drill: of how many videos.
        started: when, UTC. damaged: videos that could not be read and were left out.
        device: that computed.
    """

    rows: list[dict[str, Any]]
    cost: dict[str, Any]
    kept: list[dict[str, Any]]
    drill: int
    started: str
    damaged: int = 0
    device: torch.device = torch.device("cpu")


def write_cell(out: Path, settings: Settings, outcome: Outcome) -> dict[str, Any]:
    """Write the file of a cell, beside and renamed.

    Returns:
        The cell.
    """
    rows = outcome.rows
    answers, headline = Answers.count(rows), Answers.count(rows, settings.exclude)
    interval = macro_interval(headline)
    cell = {
        "schema": SCHEMA,
        "compressor": settings.compressor,
        "budget": settings.budget,
        "seed": settings.seed,
        "host": settings.host,
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        "n": len(rows),
        "accuracy": headline.macro,
        "accuracy_interval": [interval.low, interval.high],
        "accuracy_micro": answers.micro,
        "accuracy_by_type": answers.by_type,
        "evidence_recall": mean_of(row["recall"] for row in rows),
        "evidence_purity": mean_of(row["purity"] for row in rows),
        "cost": outcome.cost,
        "damaged": outcome.damaged,
        "settings": settings.plain(),
        "versions": versions(),
        "git": git_state(),
        "machine": machine(outcome.device),
        "started": outcome.started,
        "finished": now(),
        "drill": outcome.drill,
        "kept": outcome.kept,
        "answers": {name: [row[name] for row in rows] for name in COLUMNS},
    }
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / settings.file, lambda beside: _write(beside, cell))
    return cell


def _write(file: Path, cell: dict[str, Any]) -> None:
    with open(file, "w") as text:
        text.write(json.dumps(cell, separators=(",", ":")) + "\n")
        text.flush()
        os.fsync(text.fileno())


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def stored_number(cell: dict[str, Any], key: str) -> float | None:
    """Return a number of a cell by its key, among its costs or its own fields; None if it has none."""
    found = cell["cost"].get(key, cell.get(key))
    return None if found is None else float(found)


def read_cell(out: Path, settings: Settings, drill: int = 0) -> dict[str, Any] | None:
    """The finished cell of these settings, or None if it must be (re)done.

    Args:
        drill: it must show what was kept of so many videos.
    """
    try:
        cell = json.loads((out / FOLDER / settings.file).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(cell, dict) or cell.get("schema") != SCHEMA or any(name not in cell for name in MEASURED):
        return None
    return cell if settings.same_as(cell.get("settings")) and cell["drill"] >= drill else None


def read_cells(out: Path) -> list[dict[str, Any]]:
    """All cells of a results folder.

    Raises:
        ResultsError: there are none, one is damaged, or they cannot stand in one table.
    """
    cells = stored_cells(out)
    if not cells:
        raise ResultsError(f"no results in {out / FOLDER}: run 'framefold ablate --out {out}' first")
    check_comparable([cell["settings"] for cell in cells], out / FOLDER)
    first = cells[0]
    for cell in cells:
        if any(cell["answers"][name] != first["answers"][name] for name in ("video", "question", "answer")):
            files = " and ".join(Settings(**one["settings"]).file for one in (first, cell))
            raise ResultsError(f"{out / FOLDER}: {files} hold other questions: delete the older ones and run again")
    return cells


def stored_cells(out: Path, without: Container[str] = ()) -> list[dict[str, Any]]:
    """The cells of a results folder, those of the file names in ``without`` left out; perhaps none.

    Raises:
        ResultsError: one is damaged.
    """
    cells = []
    for file in sorted((out / FOLDER).glob("*.json")):
        if file.name in without:
            continue
        try:
            cell = json.loads(file.read_text())
            if not isinstance(cell, dict):
                raise ValueError("no JSON object")
            if cell.get("schema") == SCHEMA:
                _check(cell)
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{file} is damaged ({error}): delete it and run 'framefold ablate' again") from error
        if cell.get("schema") != SCHEMA:
            raise ResultsError(f"{file} has schema {cell.get('schema')}, not {SCHEMA}: run 'framefold ablate' again")
        cells.append(cell)
    return cells


def _check(cell: dict[str, Any]) -> None:
    """Raises for a cell without what a table needs."""
    Settings(**cell["settings"])
    if missing := [name for name in MEASURED if name not in cell]:
        raise ValueError(f"no {missing[0]}")
    if missing := [name for name in COSTS if name not in cell["cost"]]:
        raise ValueError(f"no {missing[0]}")
    lengths = {len(cell["answers"][name]) for name in COLUMNS}
    if lengths != {cell["n"]}:
        raise ValueError(f"columns of {sorted(lengths)} answers for {cell['n']}")


def answers_of(cells: Iterable[dict[str, Any]], counted: bool = True) -> Answers:
    """Answers of one row at one budget; with several seeds, hits and questions are added up by draw.

    Args:
        counted: without the types that are left out of the headline.
    """
    merged: Answers | None = None
    for cell in cells:
        columns = cell["answers"]
        rows = [
            dict(zip(("draw", "type", "correct"), values, strict=True))
            for values in zip(columns["draw"], columns["type"], columns["correct"], strict=True)
        ]
        one = Answers.count(rows, cell["settings"]["exclude"] if counted else ())
        merged = one if merged is None else Answers(merged.hits + one.hits, merged.asked + one.asked, one.types)
    if merged is None:
        raise ResultsError("no cell to count")
    return merged
