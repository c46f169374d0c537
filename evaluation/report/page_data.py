"""Data of the page of an ablation: JSON values, in which every number is accompanied by its text.

The texts are written by the same functions as those of ``report.md``, so that page and report cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from typing import Any

from framefold.data.synthetic.questions import CHANCE
from framefold.evaluation.metrics.significance import Comparison
from framefold.evaluation.metrics.statistics import Interval
from framefold.evaluation.results.measure import Readings
from framefold.evaluation.results.measures import page_measures
from framefold.evaluation.results.measures_of_answers import LOSS_AT, PLACE_MEASURES, POSITION_MEASURES
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX, SYNTHETIC

from .markdown_tables import acts_inside, known_measures, setting_paragraph
from .methods import is_query_aware, is_trainable
from .page_provenance import provenance_groups
from .page_questions import PageQuestions, pack_bits
from .references import ALL_TOKENS, references
from .styles import method_styles
from .summary import CAUTION, summary_points
from .table import ResultTable
from .view_sections import flops_limits, own_budgets, place_label, position_label

PageValue = list[Any]  # number, both ends of its interval or None, text


def page_data(table: ResultTable, folder: str) -> dict[str, Any]:
    """Return everything that the page shows, except for single questions.

    Args:
        table: results.
        folder: name of the folder of results.
    """
    comparisons = table.comparisons([None], table.budgets)
    points = [
        [_point(table, method, budget, comparisons.get((method, budget, None))) for budget in table.budgets]
        for method in table.methods
    ]
    others = _references(table)
    full = next((one for one in others if one["name"] == ALL_TOKENS), None)
    keys = {key for point in [*others, *chain(*points)] if point for key in point["values"]}
    return {
        "folder": folder,
        "title": _title(table),
        "about": setting_paragraph(table).replace("`", ""),
        "summary": {
            "points": [[budget, text.replace("`", "")] for budget, text in summary_points(table)],
            "caution": CAUTION,
        },
        "methods": _methods(table),
        "first": [table.methods.index(method) for method in first_methods(table)],
        "budgets": [_budget(table, budget) for budget in table.budgets],
        "baseline": table.baseline,
        "measures": _menu(table, keys, len(comparisons)),
        "headline": "accuracy" if table.suits_accuracy or "loss" not in keys else "loss",
        "points": points,
        "left_out": [[table.left_out_text(method, budget) for budget in table.budgets] for method in table.methods],
        "tokens_title": _tokens_title(table),
        "full": full,
        "references": others,
        "flops": {"limits": list(flops_limits(table)), "own": _own_budgets(table)},
        "places": [[one.key, place_label(one)] for one in PLACE_MEASURES if one.key in keys],
        "positions": [
            [one.key, position_label(one)]
            for one in POSITION_MEASURES
            if one.key in keys and one.key.startswith(LOSS_AT)
        ],
        "types": [{"name": kind, "chance": _chance(table, kind)} for kind in table.types],
        "provenance": provenance_groups(table),
    }


def _own_budgets(table: ResultTable) -> list[list[int | None]]:
    """Return for each method and budget the number of its own budget with at most as many operations, or None."""
    chosen = [own_budgets(table, method) for method in table.methods]
    return [[table.budgets.index(one[budget]) if budget in one else None for budget in table.budgets] for one in chosen]


def question_data(table: ResultTable, max_videos: int) -> dict[str, Any]:
    """Return what the page shows about single questions.

    Args:
        table: results.
        max_videos: largest number of videos to show, from the first.
    """
    questions = PageQuestions(table.results, max_videos)
    types = sorted(set(table.sample["answers"]["type"]))
    runs = list(_runs(table, questions))
    detail = questions.to_page(types) | {"answer_texts": list(questions.answer_texts)}
    return {"question_types": types, "asked": table.sample["n"], "runs": runs, "detail": detail}


def _title(table: ResultTable) -> str:
    """Return a title that says what was compared."""
    names = [method for method in table.methods if table.kind(method) != "oracle"]
    compared = len({method.removesuffix(EQUAL_FLOPS_SUFFIX) for method in names})
    if not compared:
        return f"All tokens: {table.sample['n']:,} questions"
    budgets = f"{', '.join(table.budgets[:-1])} and {table.budgets[-1]}" if table.budgets[1:] else table.budgets[0]
    compressors = f"{compared} compressor{'s' * (compared > 1)}"
    return f"{compressors} at {budgets} of the visual tokens: {table.sample['n']:,} questions"


def _methods(table: ResultTable) -> list[dict[str, Any]]:
    kinds = {method: table.kind(method) for method in table.methods}
    styles = method_styles(kinds)
    return [{"name": name, "kind": kinds[name], **asdict(styles[name])} for name in table.methods]


def first_methods(table: ResultTable, most: int = 5) -> list[str]:
    """Return the methods that the page shows first, in the order of the table.

    They are, as far as they were run: the best trained method and the one without a query, the best training-free
    method, the baseline, and the weakest method; further ones in the order of the table.
    """
    budget = table.second_smallest
    compressors = [method for method in table.methods if table.kind(method) != "oracle"]
    wanted = [
        table.best(budget, is_trainable),
        table.best(budget, lambda method: is_trainable(method) and not is_query_aware(method, table.by_method[method])),
        table.best(budget, lambda method: not is_trainable(method)),
        table.baseline,
        *compressors[-1:],
        *compressors,
    ]
    chosen = list(dict.fromkeys(method for method in wanted if method in table.methods))[:most]
    return sorted(chosen, key=table.methods.index)


def _budget(table: ResultTable, budget: str) -> dict[str, Any]:
    tokens = table.tokens(budget)
    note = f"{'/'.join(map(str, tokens))} tokens" if tokens else ""
    return {"label": budget, "note": "" if note == budget else note, "tokens": tokens}


def _tokens_title(table: ResultTable) -> str:
    """Return what the axis of visual tokens shows."""
    return f"visual tokens per video{', mean over the layers' if acts_inside(table) else ' that are kept'}"


def _chance(table: ResultTable, kind: str) -> float | None:
    return CHANCE.get(kind) if table.sample["settings"]["data"]["kind"] == SYNTHETIC else None


def _point(table: ResultTable, method: str, budget: str, comparison: Comparison | None) -> dict[str, Any] | None:
    """Return the values of a method at a budget; None if it was not run."""
    results = table.results_of(method, budget)
    if not results:
        return None
    return {"tokens": results[0]["tokens"], "values": _values(table, table.readings(method, budget, comparison))}


def _references(table: ResultTable) -> list[dict[str, Any]]:
    return [{"name": one.name, "values": _values(table, one.readings)} for one in references(table)]


def _values(table: ResultTable, readings: Readings) -> dict[str, PageValue]:
    """Return the values of all measures that have one, by key."""
    values: dict[str, PageValue] = {}
    for measure in known_measures(table, page_measures(table.types), table.budgets):
        value = measure.value(readings)
        if isinstance(value, Interval):
            numbers = (round(x, 6) for x in (value.value, value.low, value.high))
            values[measure.key] = [*numbers, measure.text(readings)]
        elif value is not None and math.isfinite(value):
            values[measure.key] = [value, None, None, measure.text(readings)]
    return values


def _menu(table: ResultTable, keys: set[str], tests: int) -> list[dict[str, Any]]:
    """Return the declarations of measures, in the order of the menu.

    Args:
        table: results.
        keys: keys of the measures that have a value somewhere.
        tests: number of tests that p is corrected for.
    """

    def fill(text: str) -> str:
        return text.format(baseline=table.baseline, tests=tests)

    return [
        {
            "key": measure.key,
            "label": fill(measure.label),
            "description": fill(measure.description),
            "group": measure.group,
            "better": measure.better,
            "note": fill(measure.note),
            "hint": measure.hint,
            "axis": measure.axis,
            "compares": measure.compares,
        }
        for measure in known_measures(table, page_measures(table.types), table.budgets)
        if measure.key in keys
    ]


def _runs(table: ResultTable, questions: PageQuestions) -> Iterator[dict[str, Any]]:
    """Yield what each result, except for those of all tokens, answered and kept."""
    for method_number, method in enumerate(table.methods):
        for budget_number, budget in enumerate(table.budgets):
            results = table.results_of(method, budget)
            for result in results:
                yield {
                    "method": method_number,
                    "budget": budget_number,
                    "seed": result["seed"],
                    "seeds": len(results),
                    "inside": "tokens_mean" in result["cost"],
                    "right": pack_bits(result["answers"]["correct"]),
                    "detail": questions.answers_of(result),
                }
