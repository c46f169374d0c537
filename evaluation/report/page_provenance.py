"""Where the numbers of an ablation's page come from: what its cells say of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from framefold.evaluation.results.settings import Settings

from .table import Cell, Table

_ROW = {"compressor", "adapter", "budget", "seed", "code"}  # settings that differ between the cells of a table

_GROUPS = (("Versions", "versions"), ("Git", "git"), ("Machines", "machine"))


def provenance_groups(results: Table) -> list[dict[str, Any]]:
    """Settings, versions, git state and machines of the cells, in groups of pairs of name and text."""
    cells = results.cells
    shared = [(name, value) for name, value in _flat(cells[0]["settings"]) if name not in _ROW]
    groups = [("Settings of all cells", [(name, _text(value)) for name, value in shared])]
    groups += [(title, _counted([cell[name] or {} for cell in cells])) for title, name in _GROUPS]
    by_row = {cell["compressor"]: cell["settings"] for cell in cells}
    params = [(name, _text(one["params"]) if one["params"] else "defaults") for name, one in by_row.items()]
    files = [(Settings(**cell["settings"]).file, _cell(cell)) for cell in cells]
    groups += [("Parameters of the rows", params), (f"{len(cells)} cells", files)]
    return [{"title": title, "facts": facts or [("", "unknown")]} for title, facts in groups]


def _flat(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if name == "data":
            yield from ((f"data: {key}", one) for key, one in value.items())
        elif name != "params":
            yield name, value


def _counted(groups: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each name with its value, or its values and in how many cells each is."""
    facts = []
    for name in dict.fromkeys(name for group in groups for name in group):
        texts = [_text(group.get(name)) for group in groups]
        each = {text: texts.count(text) for text in texts}
        facts.append((name, ", ".join(each if len(each) == 1 else (f"{text} ({n} cells)" for text, n in each.items()))))
    return facts


def _cell(cell: Cell) -> str:
    adapter = cell["settings"]["adapter"]
    weights = f", weights {adapter[:12]}" if adapter else ""
    return f"{cell['n']} answers, finished {cell['finished']}, code {cell['settings']['code'][:12]}{weights}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)
