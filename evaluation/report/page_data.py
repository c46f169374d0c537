"""From the table of an ablation to what its page shows: plain JSON values, with every number as text too.

The page prints texts that were made here, by the functions that make those of report.md, so that the two cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

from framefold.data.synthetic.questions import CHANCE
from framefold.evaluation.metrics.significance import stars
from framefold.evaluation.metrics.statistics import Answers, Interval, macro_interval, type_intervals
from framefold.evaluation.results.settings import ORACLES, SYNTHETIC

from .markdown import number, p_value, percent, scaled
from .markdown_tables import BYTES, FLOPS, setting
from .measures import measures
from .page_provenance import provenance_groups
from .page_questions import Drill, packed
from .table import Comparison, Table, label

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
        "measures": [measure for measure in measures(results, len(found)) if measure["key"] in seen],
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
    """Every measure of a row at a budget, None where it was not run."""
    answers, cells = results.answers(name, budget), results.cells_of(name, budget)
    if answers is None:
        return None
    values = _accuracies(answers)
    if against is not None:
        text = f"{percent(against.difference, sign=True)} {stars(against.flip_holm)}".rstrip()
        values["difference"] = _value(against.difference, text)
        both = f"{p_value(against.flip_holm)} (McNemar {p_value(against.mcnemar_holm)})"
        values["p"] = _bare(against.flip_holm, both)
    for what in ("recall", "purity"):
        share = results.evidence(name, budget, what)
        if share is not None and math.isfinite(share):
            values[what] = _bare(share, f"{100 * share:.1f}")
    values |= _costs(results, name, budget)
    return {"tokens": cells[0]["tokens"], "values": values}


def _accuracies(answers: Answers) -> dict[str, Value]:
    one = macro_interval(answers)
    types = {f"type:{kind}": _value(each, percent(each)) for kind, each in type_intervals(answers).items()}
    return {"accuracy": _value(one, percent(one)), **types}


def _value(interval: Interval, text: str) -> Value:
    return [*(round(x, 6) for x in (interval.value, interval.low, interval.high)), text]


def _bare(value: float | None, text: str) -> Value:
    """Without an interval."""
    return [value, None, None, text]


def _costs(results: Table, name: str, budget: str) -> dict[str, Value]:
    """What was measured; what choosing costs an oracle means nothing."""

    def cost(what: str) -> float | None:
        return None if name in ORACLES and what in _CHOOSING else results.cost(name, budget, what)

    own, prefill, speedup, flops, peak = (cost(what) for what in _MEASURED)
    share, both = results.time(name, budget), None if own is None or prefill is None else own + prefill
    texts = {
        "time": (share, number(share)),
        "total_ms": (both, number(both, 2)),
        "compressor_ms": (own, number(own, 2)),
        "prefill_ms": (prefill, number(prefill, 2)),
        "speedup": (speedup, f"{number(speedup, 2)}x"),
        "tokens_entered": (entered := cost("tokens_entered"), number(entered)),
        "prefill_flops": (flops, scaled(flops, FLOPS)),
        "peak_bytes": (peak, scaled(peak, BYTES, 1024)),
    }
    known = {key: one for key, one in texts.items() if one[0] is not None and math.isfinite(one[0])}
    return {key: _bare(value, text) for key, (value, text) in known.items()}


_CHOOSING = {"compressor_ms", "speedup"}

_MEASURED = ("compressor_ms", "prefill_ms", "speedup", "prefill_flops", "peak_bytes")


def _full(results: Table) -> dict[str, Any] | None:
    if results.full_answers is None:
        return None
    cell = results.full_cells[0]
    values = _accuracies(results.full_answers) | _costs(results, cell["compressor"], label(cell["budget"]))
    return {"name": "all tokens", "values": values}


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
