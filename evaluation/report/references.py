"""Rows without a budget, which stand in every column: all tokens, one frame, no video, a reader of the text alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from framefold.evaluation.metrics.statistics import Answers, macro_interval, type_intervals
from framefold.evaluation.metrics.text_reader import text_only_guesses
from framefold.evaluation.results.measure import Readings
from framefold.evaluation.results.measures import ACCURACY
from framefold.evaluation.results.measures_of_answers import LOSS_AT
from framefold.evaluation.results.result_files import Result, count_answers, mean_of_known
from framefold.evaluation.results.settings import FULL, REFERENCES
from framefold.evaluation.views.answer_views import answer_view

from .table import ResultTable

ALL_TOKENS, TEXT_ONLY = "all tokens", "text only"  # names in tables


@dataclass(frozen=True)
class Reference:
    """A row without a budget.

    Attributes:
        name: name in tables.
        readings: what is known of it.
    """

    name: str
    readings: Readings


def references(table: ResultTable) -> Iterator[Reference]:
    """Yield the rows without a budget that were run, and the reader of the text, which needs no run."""
    for method in REFERENCES:
        if readings := reference_readings(table, method):
            yield Reference(ALL_TOKENS if method == FULL else method, readings)
    yield Reference(TEXT_ONLY, _text_readings(table))


def reference_texts(table: ResultTable) -> list[tuple[str, str]]:
    """Return names and accuracies as text; that of all tokens without its interval."""
    full = table.full_accuracy
    texts = {one.name: ACCURACY.text(one.readings) for one in references(table)}
    return list((texts if full is None else texts | {ALL_TOKENS: f"{100 * full:.1f}"}).items())


def reference_readings(table: ResultTable, method: str) -> Readings | None:
    """Return accuracies and costs of a method without a budget; None if it was not run."""
    results = [result for ones in table.by_method.get(method, {}).values() for result in ones]
    if not results:
        return None
    answers = count_answers(results)
    return Readings(
        stored=lambda key: mean_of_known(_number(result, key, method) for result in results),
        accuracy=macro_interval(answers),
        by_type=type_intervals(answers),
        view=lambda key: answer_view(results, (), key) if key.startswith(LOSS_AT) else None,
    )


def _number(result: Result, key: str, method: str) -> float | None:
    """Return a stored number; the kept evidence of all tokens says nothing."""
    known = key.startswith("answer_") or method != FULL
    number = result["cost"].get(key, result.get(key) if known else None)
    return None if number is None else float(number)


@lru_cache(maxsize=1)  # tables and plots of one report ask for it many times
def text_only_answers(table: ResultTable) -> Answers:
    """Return the answers of the reader of the text alone to the questions of the headline."""
    columns, exclude = table.sample["answers"], table.sample["settings"]["exclude"]
    guesses = text_only_guesses(*(columns[name] for name in ("question", "type", "answer", "draw")))
    right = [guess == answer for guess, answer in zip(guesses, columns["answer"], strict=True)]
    return Answers.count(columns["draw"], columns["type"], right, exclude)


def _text_readings(table: ResultTable) -> Readings:
    answers = text_only_answers(table)
    return Readings(lambda key: None, accuracy=macro_interval(answers), by_type=type_intervals(answers))
