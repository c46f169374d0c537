"""Sections of ``report.md`` besides equal tokens: equal FLOPs, position of the evidence, asked again, trained at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from framefold.evaluation.results.formats import flops
from framefold.evaluation.results.measure import Measure
from framefold.evaluation.results.measures import ACCURACY, MEASURES
from framefold.evaluation.results.measures_of_answers import (
    ADDED_LOSS_AT,
    AGAIN,
    AGAIN_LOSS,
    LOSS_AT,
    PLACE_MEASURES,
    POSITION_MEASURES,
    RECALL,
    RESIZE_FAILS,
)
from framefold.evaluation.results.settings import FULL, TRAINED_AT, compressor_of
from framefold.evaluation.views.equal_flops import limits, within

from .markdown import collapsible, format_table
from .references import ALL_TOKENS, reference_readings
from .table import ResultTable

_BY_KEY = {measure.key: measure for measure in MEASURES}


def flops_limits(table: ResultTable) -> dict[str, float]:
    """Return the operations of each budget at which methods are compared at equal FLOPs; none if they are unknown."""
    stored = {
        budget: [table.stored(method, budget, "budget_flops") for method in table.methods] for budget in table.budgets
    }
    return limits(stored)


def own_budgets(table: ResultTable, method: str) -> dict[str, str]:
    """Return at which of its budgets a method is read at the operations of each budget."""
    measure = _BY_KEY["total_flops"]
    return within({one: table.cost(measure, method, one) for one in table.by_method[method]}, flops_limits(table))


def equal_flops_section(table: ResultTable) -> str:
    """Return the section that compares methods at equal operations of everything; "" if these are unknown."""
    limit = flops_limits(table)
    rows = []
    for method in table.methods:
        chosen = own_budgets(table, method)
        cells = [_at(table, method, chosen.get(budget)) for budget in limit]
        if any(cells):
            rows.append([method, *(cell or "not possible" for cell in cells)])
    if not rows:
        return ""
    text = (
        "Accuracy at the FLOPs of the budget's tokens in every layer with all frames encoded, without a compressor. "
        "Each method has the largest of its budgets at which tower, compressor, prefill and answer together need at "
        "most as many; methods that encode fewer or smaller frames thus keep more tokens."
    )
    head = ["compressor", *(f"FLOPs of {budget} ({flops(most)})" for budget, most in limit.items())]
    return "\n\n".join(["## At equal FLOPs", text, format_table(head, rows)])


def _at(table: ResultTable, method: str, budget: str | None) -> str:
    return "" if budget is None else f"{ACCURACY.text(table.readings(method, budget))} at {budget}"


def position_section(table: ResultTable) -> str:
    """Return accuracy and evidence recall by position of the evidence, budget by budget; "" if it is unknown."""
    blocks = []
    for budget in [table.second_smallest, *(one for one in table.budgets if one != table.second_smallest)]:
        tables = [_places(table, budget, recall) for recall in (False, True)]
        if tables[0]:
            content = [tables[0], collapsible(f"evidence recall at {budget}", tables[1])]
            blocks += content if budget == table.second_smallest else [collapsible(f"at {budget}", *content)]
    if not blocks:
        return ""
    text = (
        "Accuracy in percent, with 95 % intervals, on questions whose evidence is within a tenth of the video, by the "
        "middle of the evidence in the video (ten parts); and by its place in the frame (`centre`: the middle half in "
        "both directions), for all questions with evidence."
    )
    return "\n\n".join(["## By position of the evidence", text, *blocks])


def _places(table: ResultTable, budget: str, recall: bool) -> str:
    measures = [one for one in PLACE_MEASURES if one.key.startswith(RECALL) == recall]
    rows = [[method, *_brief(table, measures, method, budget)] for method in table.methods]
    rows = [row for row in rows if any(row[1:])]
    head = [f"{'recall ' if recall else ''}at {budget}", *(place_label(one) for one in measures)]
    return format_table(head, rows) if rows else ""


def answer_position_section(table: ResultTable) -> str:
    """Return the loss by position in long answers, budget by budget; "" without answers of more than one token."""
    blocks = []
    for budget in [table.second_smallest, *(one for one in table.budgets if one != table.second_smallest)]:
        tables = [_positions(table, budget, key) for key in (ADDED_LOSS_AT, LOSS_AT)]
        if tables[1]:
            content = [tables[0], collapsible(f"loss at {budget}", tables[1])]
            blocks += content if budget == table.second_smallest else [collapsible(f"at {budget}", *content)]
    if not blocks:
        return ""
    text = (
        "Negative log-likelihood of the right answer in nats per token, minus that with all tokens, by the position of "
        "the token in the answer, given the right tokens before it. Only answers of more than one token, of all types; "
        "answers that are shorter than a column do not count in it. Lower is better; 0 is as good as all tokens."
    )
    return "\n\n".join(["## By position in long answers", text, *(block for block in blocks if block)])


def _positions(table: ResultTable, budget: str, key: str) -> str:
    rows = [(method, table.readings(method, budget)) for method in table.methods]
    full = reference_readings(table, FULL) if key == LOSS_AT else None
    rows += [(ALL_TOKENS, full)] if full is not None else []
    measures = [one for one in POSITION_MEASURES if one.key.partition(":")[0] == key]
    measures = [one for one in measures if any(one.brief_text(readings) for _, readings in rows)]
    cells = [[name, *(one.brief_text(readings) for one in measures)] for name, readings in rows]
    head = [f"{'added loss' if key == ADDED_LOSS_AT else 'loss'} at {budget}", *map(position_label, measures)]
    return format_table(head, [row for row in cells if any(row[1:])]) if measures else ""


def position_label(measure: Measure) -> str:
    """Return the head of a column for a position in the answer."""
    return measure.title.partition(", ")[2]


def place_label(measure: Measure) -> str:
    """Return the head of a column for a position of the evidence."""
    return measure.title.partition(", ")[2].removesuffix(" of the video").removesuffix(" of the frame")


def _brief(table: ResultTable, measures: Sequence[Measure], method: str, budget: str) -> list[str]:
    readings = table.readings(method, budget)
    return [measure.brief_text(readings) for measure in measures]


def asked_again_section(table: ResultTable) -> str:
    """Return what methods that read the question lose when another one is asked; "" without such methods."""
    return _section(
        table,
        "## Asked again",
        "Accuracy of methods that read the question when a video was compressed for another question about it, and "
        "the difference to compressing for the question asked, in points. Other methods lose nothing.",
        (AGAIN, AGAIN_LOSS),
    )


def resize_fails_section(table: ResultTable) -> str:
    """Return the accuracy on the questions that smaller frames do not answer; "" without such rows."""
    return _section(
        table,
        "## Where resize fails",
        "Accuracy on the questions that `resize` does not answer at the same budget, over questions of all types. They "
        "were chosen by its answers, so that a method like it has little here; compare the other methods.",
        (RESIZE_FAILS,),
    )


def _section(table: ResultTable, title: str, text: str, keys: Sequence[str]) -> str:
    rows = []
    for method in table.methods:
        readings = [table.readings(method, budget) for budget in table.budgets]
        cells = [" / ".join(filter(None, (_BY_KEY[key].text(one) for key in keys))) for one in readings]
        if any(cells):
            rows.append([method, *cells])
    head = [" / ".join(_BY_KEY[key].title for key in keys), *table.budgets]
    return "\n\n".join([title, text, format_table(head, rows)]) if rows else ""


def trained_at_section(table: ResultTable) -> str:
    """Return a matrix of accuracies for each compressor with adapters trained at several budgets; "" without any."""
    rows: dict[str, list[str]] = defaultdict(list)
    for method in table.methods:
        if TRAINED_AT in method:
            rows[compressor_of(method)].append(method)
    tables = []
    for name, methods in rows.items():
        best = [max(methods, key=partial(_macro, table, budget)) for budget in table.budgets]
        cells = [[_trained_at(method), *_row(table, method, best)] for method in methods]
        tables.append(format_table([f"{name}, trained at", *(f"run at {one}" for one in table.budgets)], cells))
    text = "Accuracy of adapters at budgets other than those of their training. Bold: the best in the column."
    return "\n\n".join(["## Trained at and run at", text, *tables]) if tables else ""


def _macro(table: ResultTable, budget: str, method: str) -> float:
    answers = table.answers(method, budget)
    return -1.0 if answers is None else answers.macro


def _trained_at(method: str) -> str:
    return method.partition(TRAINED_AT)[2].partition(")")[0].strip()


def _row(table: ResultTable, method: str, best: Sequence[str]) -> list[str]:
    """Return the accuracies of a method; those in bold whose column it is the best of."""
    texts = [ACCURACY.text(table.readings(method, budget)) for budget in table.budgets]
    return [f"**{text}**" if text and one == method else text for text, one in zip(texts, best, strict=True)]
