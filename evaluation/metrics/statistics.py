"""How sure we are: bootstrap intervals of accuracies, and of paired differences. Tests are in :mod:`.significance`.

Questions about one video are not independent, so videos are resampled, not questions. Paired differences use the same
resamples for both methods: both answered the same questions about the same videos.

Dimensions: V draws (videos, or pairs of twins, which count as one), Y question types, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A point estimate and its 95 % percentile interval, all in the unit of the estimate."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Answers:
    """Correct answers and questions asked, counted by draw and type: two (V, Y) int64 arrays, and the Y type names."""

    hits: np.ndarray
    asked: np.ndarray
    types: tuple[str, ...]

    @classmethod
    def count(cls, rows: Sequence[Mapping[str, object]], exclude: Sequence[str] = ()) -> Answers:
        """Count answer rows ``{"draw": int, "type": str, "correct": bool}``; excluded types are left out.

        Raises:
            ValueError: no row is left.
        """
        rows = [row for row in rows if row["type"] not in exclude]
        if not rows:
            raise ValueError("no answered question of a counted type")
        types = tuple(sorted({str(row["type"]) for row in rows}))
        draws = {draw: i for i, draw in enumerate(dict.fromkeys(row["draw"] for row in rows))}
        hits, asked = np.zeros((2, len(draws), len(types)), dtype=np.int64)
        for row in rows:
            place = draws[row["draw"]], types.index(str(row["type"]))
            asked[place] += 1
            hits[place] += bool(row["correct"])
        return cls(hits, asked, types)

    @property
    def by_type(self) -> dict[str, float]:
        """Accuracy of each type, 0 to 1."""
        return dict(zip(self.types, (self.hits.sum(0) / self.asked.sum(0)).tolist(), strict=True))

    @property
    def macro(self) -> float:
        """Mean of the accuracies of the types, 0 to 1."""
        return float(np.mean(list(self.by_type.values())))

    @property
    def micro(self) -> float:
        """Share of all questions answered correctly, 0 to 1."""
        return float(self.hits.sum() / self.asked.sum())

    def only(self, kind: str) -> Answers:
        """The answers to questions of one type, all draws staying in their places."""
        place = self.types.index(kind)
        return Answers(self.hits[:, place : place + 1], self.asked[:, place : place + 1], (kind,))


def macro_interval(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Macro accuracy with its 95 % interval."""
    draws = _macro(_resampled(answers, resamples, seed))
    return Interval(answers.macro, *_middle(draws))


def type_intervals(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Accuracy of each type with its 95 % interval.

    Where every answer, or none, is right, resampling sees nothing vary. Then the interval is that of Clopper and
    Pearson for as many independent answers as there are draws with a question of the type.
    """
    resampled = _resampled(answers, resamples, seed)
    intervals = {}
    for place, (kind, value) in enumerate(answers.by_type.items()):
        low, high = _middle(resampled[:, place])
        if value in (0.0, 1.0):
            draws = int((answers.asked[:, place] > 0).sum())
            low, high = _clopper_pearson(round(value * draws), draws)
        intervals[kind] = Interval(value, low, high)
    return intervals


def paired_difference(a: Answers, b: Answers, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Macro accuracy of a minus that of b on the same questions, with the 95 % interval of the paired difference.

    One of them may have been asked several times (seeds), if that holds for every question alike.

    Raises:
        ValueError: a and b were not asked the same questions.
    """
    if not same_questions(a, b):
        raise ValueError("a paired difference needs two methods that were asked the same questions")
    draws = _macro(_resampled(a, resamples, seed)) - _macro(_resampled(b, resamples, seed))
    return Interval(a.macro - b.macro, *_middle(draws))


def same_questions(a: Answers, b: Answers) -> bool:
    """Whether a and b were asked as many questions of each type about each video, up to a common number of repeats."""
    if a.types != b.types or a.asked.shape != b.asked.shape:
        return False
    return np.array_equal(a.asked * b.asked.sum(), b.asked * a.asked.sum())


def _resampled(answers: Answers, resamples: int, seed: int) -> np.ndarray:
    """(R, Y) accuracies of draws that were drawn with replacement; NaN for a type that a resample does not hold."""
    weights = _weights(len(answers.asked), resamples, seed)
    hits, asked = weights @ answers.hits.astype(np.float64), weights @ answers.asked.astype(np.float64)
    return np.divide(hits, asked, out=np.full(asked.shape, np.nan), where=asked > 0)


@lru_cache(maxsize=2)
def _weights(draws: int, resamples: int, seed: int) -> np.ndarray:
    """(R, V) how often a resample holds a draw; depends on the numbers alone, so that resamples of two methods pair.

    Whole numbers, as floats for the sake of the matrix product, which is exact.
    """
    counts = np.random.default_rng(seed).multinomial(draws, np.full(draws, 1 / draws), size=resamples)
    return counts.astype(np.float64)


def _macro(accuracies: np.ndarray) -> np.ndarray:
    """(R,) means over types; one that a resample does not hold is left out, and NaN where it holds none."""
    held = ~np.isnan(accuracies)
    if held.all():
        return accuracies.mean(axis=1)
    counts = held.sum(axis=1)
    total = np.where(held, accuracies, 0.0).sum(axis=1)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _middle(draws: np.ndarray) -> tuple[float, float]:
    """The percentiles between which 95 % of the resamples lie, of those that hold a question."""
    low, high = np.percentile(draws[~np.isnan(draws)], [2.5, 97.5]).tolist()
    return low, high


@lru_cache(maxsize=4096)
def _clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    return float(interval.low), float(interval.high)
