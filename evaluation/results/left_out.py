"""Cells of an ablation that were left out, because the budget or the host is not possible for the method.

A file in the folder of results, named as the result would be, contains the settings and the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.card import budget_text
from framefold.files import replace_file

from .compact import read_compact
from .result_files import FOLDER, LEFT_OUT_FIELDS, SCHEMA, stored_files
from .settings import Settings


@dataclass(frozen=True)
class LeftOut:
    """A method at a budget that was not run.

    Attributes:
        method: name of the method.
        budget: retention ratio or number of tokens per video.
        is_trained: whether it is an adapter.
        tokens: the budget as the mean number of tokens per video.
        smallest: smallest possible budget; None if it is unknown or if no budget is possible in this host.
        reason: why it was left out, in a sentence.
    """

    method: str
    budget: Budget
    is_trained: bool
    tokens: float
    smallest: Budget | None
    reason: str

    @property
    def label(self) -> str:
        """Label of the budget."""
        return budget_text(self.budget)

    @property
    def text(self) -> str:
        """Text for a cell of a table."""
        return "not possible" + ("" if self.smallest is None else f": smallest is {budget_text(self.smallest)}")


def write_left_out(out: Path, settings: Settings, left_out: LeftOut) -> None:
    """Write the file of a cell that was left out atomically.

    Args:
        out: folder of the results.
        settings: settings that the result would have.
        left_out: the cell.
    """
    content = {
        "schema": SCHEMA,
        "left_out": {name: getattr(left_out, name) for name in LEFT_OUT_FIELDS},
        "settings": settings.to_dict(),
    }
    file = out / FOLDER / settings.file
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda temporary: temporary.write_text(json.dumps(content) + "\n"))


def is_left_out(out: Path, settings: Settings) -> bool:
    """Return whether a cell with these settings was left out."""
    try:
        content = json.loads((out / FOLDER / settings.file).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "left_out" in content and settings.matches(content.get("settings"))


def read_left_out(out: Path) -> list[LeftOut]:
    """Return the cells of a folder that were left out, or of a file that :mod:`.compact` has written.

    Raises:
        ResultsError: a file is damaged.
    """
    contents = stored_left_out(out)
    return [_parse(content["settings"], content["left_out"]) for content in contents]


def stored_left_out(out: Path) -> list[dict[str, Any]]:
    """Return the contents of the files of cells that were left out.

    Raises:
        ResultsError: a file is damaged.
    """
    if out.is_file():
        return read_compact(out)[1]
    return [content for _, content in stored_files(out) if "left_out" in content]


def _parse(settings: dict[str, Any], fields: dict[str, Any]) -> LeftOut:
    is_trained = settings["adapter"] is not None
    return LeftOut(settings["compressor"], settings["budget"], is_trained, *(fields[one] for one in LEFT_OUT_FIELDS))
