"""Means over some of the answers of a method: by position of the evidence, asked again, where `resize` fails, and loss.

Every view has the 95 % interval of resampled clusters. Only questions of the headline count, except for the loss.

Dimensions: Q questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from framefold.evaluation.metrics.statistics import (
    Answers,
    Interval,
    clustered_share,
    macro_interval,
    paired_difference,
)
from framefold.evaluation.results.measures_of_answers import (
    ADDED_LOSS_AT,
    AGAIN,
    AGAIN_LOSS,
    BINS,
    LOSS_AT,
    RECALL,
    RESIZE_FAILS,
    WHEN,
    WHERE,
)
from framefold.evaluation.results.result_files import Result

from .answer_positions import added_loss_by_position, loss_by_position

Column = list[Any]


def answer_view(
    results: Sequence[Result], resized: Sequence[Result], key: str, full: Sequence[Result] = ()
) -> Interval | None:
    """Return a view of the answers of a method at a budget.

    Args:
        results: results of the method, one per seed.
        resized: those of `resize` at the same budget.
        key: key of a measure of :mod:`framefold.evaluation.results.measures_of_answers`.
        full: results of all tokens.

    Returns:
        None if it is unknown, or if there is no such question.
    """
    if not results:
        return None
    name, _, part = key.partition(":")
    views: dict[str, Callable[[], Interval | None]] = {
        AGAIN: partial(_again, results, False),
        AGAIN_LOSS: partial(_again, results, True),
        RESIZE_FAILS: partial(_where_resize_fails, results, resized),
        WHEN: partial(_share, results, "correct", _in_bin(results, part)),
        WHERE: partial(_share, results, "correct", _equal(results, "where", part)),
        RECALL + WHEN: partial(_share, results, "recall", _in_bin(results, part)),
        RECALL + WHERE: partial(_share, results, "recall", _equal(results, "where", part)),
        LOSS_AT: partial(loss_by_position, results, part),
        ADDED_LOSS_AT: partial(added_loss_by_position, results, full, part),
    }
    return views[name]()


def _column(results: Sequence[Result], name: str) -> Column:
    columns = results[0]["answers"]
    return list(columns.get(name, [None] * len(columns["type"])))


def _counted(results: Sequence[Result]) -> np.ndarray:
    exclude = results[0]["settings"]["exclude"]
    return np.array([kind not in exclude for kind in _column(results, "type")])


def _in_bin(results: Sequence[Result], part: str) -> np.ndarray:
    """Return (Q,) bool, the questions whose evidence is in one of the ten parts of the video."""
    places = _column(results, "when")
    return np.array([place is not None and str(min(BINS - 1, int(BINS * place))) == part for place in places])


def _equal(results: Sequence[Result], column: str, value: str) -> np.ndarray:
    return np.array([one == value for one in _column(results, column)])


def _share(results: Sequence[Result], column: str, chosen: np.ndarray) -> Interval | None:
    """Return the mean of a column, and over seeds, over some of the questions."""
    chosen = chosen & _counted(results)
    if not chosen.any():
        return None
    values = np.mean([np.array(_column([one], column), dtype=float)[chosen] for one in results], axis=0)
    clusters = np.array(_column(results, "draw"))[chosen]
    return None if np.isnan(values).any() else clustered_share(values.tolist(), clusters.tolist())


def _where_resize_fails(results: Sequence[Result], resized: Sequence[Result]) -> Interval | None:
    if not resized or results[0]["settings"]["compressor"] == resized[0]["settings"]["compressor"]:
        return None
    failed = ~np.array(_column(resized, "correct"), dtype=bool)
    return _share(results, "correct", failed) if len(failed) == len(_column(results, "correct")) else None


def _again(results: Sequence[Result], loss: bool) -> Interval | None:
    """Return the accuracy on questions that were asked again, or what it lost."""
    exclude, first, again = results[0]["settings"]["exclude"], None, None
    for one in results:
        asked = [number for number, value in enumerate(_column([one], "again")) if value is not None]
        kinds = _column([one], "type")
        if not any(kinds[number] not in exclude for number in asked):
            return None
        clusters, types = ([_column([one], name)[number] for number in asked] for name in ("draw", "type"))
        counts = [
            Answers.count(clusters, types, [_column([one], name)[number] for number in asked], exclude)
            for name in ("correct", "again")
        ]
        first, again = counts if first is None or again is None else (first + counts[0], again + counts[1])
    assert first is not None and again is not None
    return paired_difference(again, first) if loss else macro_interval(again)
