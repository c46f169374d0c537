"""Loss by position in long answers: what the first tokens of an answer hide, and its difference to all tokens.

Every question whose right answer has more than one token counts, whatever its type. Dimensions: Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from framefold.evaluation.metrics.statistics import Interval, clustered_mean
from framefold.evaluation.results.measures_of_answers import ANSWER_PARTS
from framefold.evaluation.results.result_files import Result


def loss_by_position(results: Sequence[Result], part: str) -> Interval | None:
    """Return the loss at some positions of the answers, the mean over questions.

    Args:
        results: results of a method, one per seed.
        part: name of one of ``ANSWER_PARTS``.

    Returns:
        None if no answer has these positions.
    """
    return _mean(results, _losses(results, part))


def added_loss_by_position(results: Sequence[Result], full: Sequence[Result], part: str) -> Interval | None:
    """Return that loss minus the one with all tokens, question by question.

    Args:
        results: results of a method, one per seed.
        full: results of all tokens.
        part: name of one of ``ANSWER_PARTS``.
    """
    ours, theirs = _losses(results, part), _losses(full, part)
    return _mean(results, ours - theirs) if len(ours) == len(theirs) else None


def _mean(results: Sequence[Result], values: np.ndarray) -> Interval | None:
    known = ~np.isnan(values)
    if not known.any():
        return None
    clusters = np.array(results[0]["answers"]["draw"])[known]
    return clustered_mean(values[known].tolist(), clusters.tolist())


def _losses(results: Sequence[Result], part: str) -> np.ndarray:
    """Return (Q,) mean loss of each question at some positions, and over seeds; NaN without these positions."""
    first, last = ANSWER_PARTS[part]
    columns = [one["answers"].get("losses") for one in results]
    if not columns or any(column is None for column in columns):
        return np.zeros(0)
    return np.mean([[_mean_of(losses, first, last) for losses in column] for column in columns if column], axis=0)


def _mean_of(losses: Sequence[float] | None, first: int, last: int | None) -> float:
    chosen: Sequence[Any] = (losses or ())[first - 1 : last]
    return sum(chosen) / len(chosen) if chosen else float("nan")
