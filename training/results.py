"""Results of an ablation on disk: one JSON file a cell, so that every table can be derived from files.

A cell is a compressor at a budget with a seed, on a host, on held-out videos. Its file holds the settings that went in
and what came out, down to every answer.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import __version__
from ..adapters.errors import FramefoldError
from ..adapters.folder import replace_file
from ..adapters.params import short
from .statistics import Answers, macro_interval

SCHEMA = 2
FOLDER = "cells"
# What the cells of one table have in common.
COMMON = ("host_weights", "videos", "frames", "data_seed", "split", "difficulty", "style", "exclude")
MEASURED = ("answers", "n", "tokens", "tokens_entered", "compressor_ms", "llm_ms")


class ResultsError(FramefoldError, ValueError):
    """A results folder is missing, empty or damaged."""


@dataclass(frozen=True)
class Settings:
    """All that decides the outcome of a cell; two cells with equal settings have equal answers.

    Attributes:
        compressor: name of the row.
        params: its constructor parameters; adapter: SHA-256 of its weights, None without.
        budget: retention ratio or tokens per video; seed: of methods that draw, or of an adapter's training.
        host: folder of the host; host_weights: SHA-256 of its weights and configuration.
        videos, frames, data_seed, split, difficulty, style: the held-out videos.
        exclude: question types that are left out of the headline.
        code: SHA-256 of the source that makes the videos, compresses them and asks.
    """

    compressor: str
    params: dict[str, Any]
    adapter: str | None
    budget: float | int
    seed: int
    host: str
    host_weights: str
    videos: int
    frames: int
    data_seed: int
    split: str
    exclude: list[str]
    difficulty: dict[str, Any]
    style: str = "normal"
    code: str = ""

    @property
    def file(self) -> str:
        """Name of the cell's file: 1 token and 1.0 of the tokens differ, and so do 0.1 and 0.10000001."""
        return f"{self.compressor}-b{self.budget!r}-s{self.seed}.json"


def write_cell(out: Path, settings: Settings, rows: list[dict[str, Any]], cost: dict[str, float]) -> dict[str, Any]:
    """Write the file of a cell, beside and renamed.

    Args:
        rows: every answer, ``{"video": int, "type": str, "correct": bool, "tokens": int}``.
        cost: times in milliseconds per video and tokens that entered the language model, as measured.

    Returns:
        The cell.
    """
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
        **cost,
        "settings": asdict(settings),
        "versions": {"framefold": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "machine": {
            "processor": platform.machine(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "answers": {key: [row[key] for row in rows] for key in ("video", "type", "correct", "tokens")},
    }
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / settings.file, lambda beside: beside.write_text(json.dumps(cell) + "\n"))
    return cell


def read_cell(out: Path, settings: Settings) -> dict[str, Any] | None:
    """The finished cell of these settings, or None if it must be (re)done."""
    try:
        cell = json.loads((out / FOLDER / settings.file).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(cell, dict):
        return None
    same = cell.get("schema") == SCHEMA and cell.get("settings") == json.loads(json.dumps(asdict(settings)))
    return cell if same else None


def read_cells(out: Path) -> list[dict[str, Any]]:
    """All cells of a results folder.

    Raises:
        ResultsError: there are none, one is damaged, or they cannot stand in one table.
    """
    cells = stored_cells(out)
    if not cells:
        raise ResultsError(f"no results in {out / FOLDER}: run 'framefold ablate --out {out}' first")
    check_comparable([cell["settings"] for cell in cells], out)
    return cells


def check_comparable(settings: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A table holds answers about the same videos by the same host, a row the same parameters, a seed one adapter.

    Args:
        settings: of cells, as dictionaries. out: their folder, for the message.

    Raises:
        ResultsError: they differ; the message names two cells and in what.
    """
    rows: dict[Any, Mapping[str, Any]] = {}
    for one in settings:
        row = rows.setdefault(one["compressor"], one)
        same = rows.setdefault((one["compressor"], one["seed"]), one)
        pairs = [(settings[0], COMMON), (row, ("params",)), (same, ("adapter",))]
        for other, fields in pairs:
            for name in fields:
                if one[name] != other[name]:
                    files = " and ".join(Settings(**s).file for s in (other, one))
                    raise ResultsError(
                        f"{out / FOLDER}: {files} differ in {name} ({short(other[name])}, {short(one[name])}): "
                        "give each ablation an --out of its own, or delete the old cells"
                    )


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
                Settings(**cell["settings"])
                if missing := [key for key in MEASURED if key not in cell]:
                    raise ValueError(f"no {missing[0]}")
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{file} is damaged ({error}): delete it and run 'framefold ablate' again") from error
        if cell.get("schema") != SCHEMA:
            raise ResultsError(f"{file} has schema {cell.get('schema')}, not {SCHEMA}: run 'framefold ablate' again")
        cells.append(cell)
    return cells


def answers_of(cells: Iterable[dict[str, Any]]) -> Answers:
    """Answers of one row at one budget; with several seeds, hits and questions are added up by video."""
    merged: Answers | None = None
    for cell in cells:
        columns = cell["answers"]
        rows = [
            dict(zip(("video", "type", "correct"), values, strict=True))
            for values in zip(columns["video"], columns["type"], columns["correct"], strict=True)
        ]
        one = Answers.count(rows, cell["settings"]["exclude"])
        merged = one if merged is None else Answers(merged.hits + one.hits, merged.asked + one.asked, one.types)
    if merged is None:
        raise ResultsError("no cell to count")
    return merged
