"""Provenance of the numbers on the page: settings, versions, git state and machines of the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from framefold.evaluation.results.result_files import Result
from framefold.evaluation.results.settings import Settings

from .table import ResultTable

_DIFFERENT = {"compressor", "adapter", "budget", "seed", "code"}  # settings that differ between results of one folder

_GROUPS = (("Versions", "versions"), ("Git", "git"), ("Machines", "machine"))


def provenance_groups(table: ResultTable) -> list[dict[str, Any]]:
    """Return groups of pairs of name and text."""
    results = table.results
    shared = [(name, value) for name, value in _flatten(results[0]["settings"]) if name not in _DIFFERENT]
    groups = [("Settings of all results", [(name, _text(value)) for name, value in shared])]
    groups += [(title, _count_values([result[name] or {} for result in results])) for title, name in _GROUPS]
    settings_of = {result["compressor"]: result["settings"] for result in results}
    params = [(method, _text(one["params"]) if one["params"] else "defaults") for method, one in settings_of.items()]
    files = [(Settings(**result["settings"]).file, _describe(result)) for result in results]
    groups += [("Parameters of the methods", params), (f"{len(results)} results", files)]
    return [{"title": title, "facts": facts or [("", "unknown")]} for title, facts in groups]


def _flatten(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if name == "data":
            yield from ((f"data: {key}", one) for key, one in value.items())
        elif name != "params":
            yield name, value


def _count_values(groups: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return each name with its value, or with all its values and how many results have each."""
    facts = []
    for name in dict.fromkeys(name for group in groups for name in group):
        texts = [_text(group.get(name)) for group in groups]
        counts = {text: texts.count(text) for text in texts}
        values = counts if len(counts) == 1 else (f"{text} ({n} results)" for text, n in counts.items())
        facts.append((name, ", ".join(values)))
    return facts


def _describe(result: Result) -> str:
    adapter = result["settings"]["adapter"]
    weights = f", weights {adapter[:12]}" if adapter else ""
    return f"{result['n']} answers, finished {result['finished']}, code {result['settings']['code'][:12]}{weights}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)
