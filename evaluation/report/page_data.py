"""From the table of an ablation to what its page shows: plain JSON values, with every number as text too.

The page prints texts that were made here, by the functions that make those of report.md, so that the two cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

from framefold.data.synthetic.questions import CHANCE
from framefold.evaluation.metrics.significance import Comparison
from framefold.evaluation.metrics.statistics import Interval
from framefold.evaluation.results.measure import Readings
from framefold.evaluation.results.measures import page_measures
from framefold.evaluation.results.settings import ORACLES, SYNTHETIC

from .markdown_tables import setting
from .page_provenance import provenance_groups
from .page_questions import Drill, packed
from .table import Table

Value = list[Any]  # number, low and high end of its interval or None, text


def page_data(results: Table, title: str) -> dict[str, Any]:
    """All that the page shows, but for what it shows question by question.

    Args:
        title: of the page.
    """
    found = {(one.row, one.budget): one for one in results.comparisons([None], results.budgets).values()}
    points = [
        [_point(results, name, budget, found.get((name, budget))) for budget in results.budgets]
        for name in results.rows
    ]
    full = _full(results)
    seen = {key for point in [full, *chain(*points)] if point for key in point["values"]}
    return {
        "title": title,
        "about": setting(results).replace("`", ""),
        "rows": [{"name": name, "kind": _kind(results, name)} for name in results.rows],
        "budgets": [_budget(results, budget) for budget in results.budgets],
        "baseline": results.baseline,
        "measures": _menu(results, seen, len(found)),
        "points": points,
        "full": full,
        "types": [{"name": kind, "chance": _chance(results, kind)} for kind in results.types],
        "origin": provenance_groups(results),
    }


def drill_data(results: Table, videos: int) -> dict[str, Any]:
    """What the page shows question by question.

    Args:
        videos: at most so many are shown, the first ones.
    """
    drill = Drill(results.cells, videos)
    kinds = sorted(set(results.sample["answers"]["type"]))
    runs = list(_runs(results, drill))
    shown = drill.plain(kinds) | {"words": list(drill.words)}
    return {"kinds": kinds, "asked": results.sample["n"], "runs": runs, "drill": shown}


def _kind(results: Table, name: str) -> str:
    if name in ORACLES:
        return "oracle"
    cells = next(iter(results.by_row[name].values()))
    return "training-free" if cells[0]["settings"]["adapter"] is None else "trained"


def _budget(results: Table, budget: str) -> dict[str, Any]:
    tokens = results.tokens(budget)
    note = f"{'/'.join(map(str, tokens))} tokens"
    return {"label": budget, "note": "" if note == budget else note}


def _chance(results: Table, kind: str) -> float | None:
    return CHANCE.get(kind) if results.sample["settings"]["data"]["kind"] == SYNTHETIC else None


def _point(results: Table, name: str, budget: str, against: Comparison | None) -> dict[str, Any] | None:
    """Return the values of every measure of a row at a budget; None where it was not run."""
    cells = results.cells_of(name, budget)
    if not cells:
        return None
    return {"tokens": cells[0]["tokens"], "values": _values(results, results.readings(name, budget, against))}


def _full(results: Table) -> dict[str, Any] | None:
    readings = results.full_readings()
    return None if readings is None else {"name": "all tokens", "values": _values(results, readings)}


def _values(results: Table, readings: Readings) -> dict[str, Value]:
    """Return value, interval and text of every measure that has a value, by key."""
    values: dict[str, Value] = {}
    for measure in page_measures(results.types):
        value = measure.value(readings)
        if isinstance(value, Interval):
            ends = (round(x, 6) for x in (value.value, value.low, value.high))
            values[measure.key] = [*ends, measure.text(readings)]
        elif value is not None and math.isfinite(value):
            values[measure.key] = [value, None, None, measure.text(readings)]
    return values


def _menu(results: Table, shown: set[str], tests: int) -> list[dict[str, Any]]:
    """Return the declarations of the measures that have a value somewhere, in the order of the menu.

    Args:
        tests: in the family that p is corrected for.
    """

    def filled(text: str) -> str:
        return text.format(baseline=results.baseline, tests=tests)

    return [
        {
            "key": measure.key,
            "label": filled(measure.label),
            "long": filled(measure.description),
            "group": measure.group,
            "better": measure.better,
            "note": filled(measure.note),
            "hint": measure.hint,
            "axis": measure.axis,
            "against": measure.compares,
        }
        for measure in page_measures(results.types)
        if measure.key in shown
    ]


def _runs(results: Table, drill: Drill) -> Iterator[dict[str, Any]]:
    """Every cell but that of all tokens: which questions it answers right, and what it kept."""
    for row, name in enumerate(results.rows):
        for column, budget in enumerate(results.budgets):
            cells = results.cells_of(name, budget)
            for cell in cells:
                yield {
                    "row": row,
                    "budget": column,
                    "seed": cell["seed"],
                    "seeds": len(cells),
                    "right": packed(cell["answers"]["correct"]),
                    "drill": drill.run(cell),
                }
