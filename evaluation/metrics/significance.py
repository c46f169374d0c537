"""Is a difference more than chance? Tests of two methods that answered the same questions, and Holm's correction.

Two tests, because McNemar's, which readers know, takes questions for independent. They are not: those about one video
stand and fall together, so its p is too small. The sign-flip test treats a draw (a video, or a pair of twins) as one
observation; under the null hypothesis the two methods could as well be exchanged in it. Marks of significance are its.

Dimensions: V draws, Y question types, Q questions, M comparisons, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .statistics import Answers, Interval, same_questions

FLIPS = 20_000

CHUNK = 1000  # flips at a time, so that memory stays small


@dataclass(frozen=True)
class Comparison:
    """A row against the baseline at one budget, on the mean over question types or on one type.

    Attributes:
        difference: in accuracy, with its interval.
        better, worse: questions that the row answers better and worse than the baseline.
        mcnemar, flip: p of the two tests; with ``_holm`` after Holm's correction in the family.
    """

    row: str
    budget: str
    difference: Interval
    better: int
    worse: int
    mcnemar: float
    mcnemar_holm: float
    flip: float
    flip_holm: float


def parts_of(a: Answers, b: Answers) -> np.ndarray:
    """(V, Y + 1) what each draw adds to the difference of a and b: in each type, and in the mean over types (last).

    Raises:
        ValueError: a and b were not asked the same questions.
    """
    if not same_questions(a, b):
        raise ValueError("a test needs two methods that were asked the same questions")
    by_type = a.hits / a.asked.sum(0) - b.hits / b.asked.sum(0)
    return np.column_stack([by_type, by_type.mean(axis=1)])


def sign_flip(parts: np.ndarray, flips: int = FLIPS, seed: int = 0) -> np.ndarray:
    """Two-sided p of differences that are sums over draws, each of which could as well have the other sign.

    All sign patterns are tried if they are no more than ``flips``; otherwise that many random ones, and the observed
    pattern counts as one more, so that p is never 0.

    Args:
        parts: (V, M) what each draw adds to each of M differences.

    Returns:
        (M,) p.
    """
    observed = np.abs(parts.sum(0))
    least = observed - 1e-9 * np.abs(parts).sum(0)  # sums in another order differ in their last digits
    draws = len(parts)
    exact = draws < 62 and 2**draws <= flips
    total = 2**draws if exact else flips
    extreme, rng = np.zeros(parts.shape[1], dtype=np.int64), np.random.default_rng(seed)
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        if exact:
            bits = (np.arange(first, first + count)[:, None] >> np.arange(draws)) & 1
        else:
            bits = rng.integers(0, 2, (count, draws), dtype=np.int8)
        extreme += (np.abs((1.0 - 2.0 * bits) @ parts) >= least).sum(0)
    return extreme / total if exact else (extreme + 1) / (total + 1)


def discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Questions that a answers better than b, and the other way round.

    Args:
        a, b: (Q,) right or wrong of each question; with several seeds the share of them that is right.
    """
    return int((a > b).sum()), int((a < b).sum())


def mcnemar(better: int, worse: int) -> float:
    """McNemar's exact two-sided p of the discordant questions; 1 where there are none."""
    return float(stats.binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p values of a family after Holm's correction (step down), in the given order."""
    order = sorted(range(len(p)), key=lambda place: p[place])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def stars(p: float) -> str:
    """The usual marks: * below 0.05, ** below 0.01, *** below 0.001."""
    return "*" * sum(p < limit for limit in (0.05, 0.01, 0.001))
