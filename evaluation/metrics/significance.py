"""Significance tests of two methods that answered the same questions, and Holm's correction for several tests.

McNemar's test, which papers report, assumes independent questions. Questions about one video are not independent, so
its p is too small. The sign-flip test treats a cluster (all questions about one video, or about a pair of twin videos)
as one observation, and assumes only that the two methods are exchangeable in each cluster under the null hypothesis.
Marks of significance are based on the sign-flip test.

Dimensions: V clusters, Y question types, Q questions, M comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .statistics import Answers, Interval, same_questions

FLIPS = 20_000

CHUNK = 1000  # sign patterns that are evaluated at a time, which bounds the memory


@dataclass(frozen=True)
class Comparison:
    """Comparison of a method with the baseline at one budget, on the mean over question types or on one type.

    Attributes:
        method: name of the method.
        budget: label of the budget.
        difference: accuracy minus that of the baseline, with its interval.
        better: number of questions that the method answers better than the baseline.
        worse: number of questions that it answers worse.
        mcnemar: p of McNemar's test.
        mcnemar_holm: p of McNemar's test after Holm's correction in its family.
        flip: p of the sign-flip test.
        flip_holm: p of the sign-flip test after Holm's correction in its family.
    """

    method: str
    budget: str
    difference: Interval
    better: int
    worse: int
    mcnemar: float
    mcnemar_holm: float
    flip: float
    flip_holm: float


def contributions(a: Answers, b: Answers) -> np.ndarray:
    """Return (V, Y + 1) contributions of the clusters to the difference of a and b: by type, and to the mean (last).

    Raises:
        ValueError: a and b were not asked the same questions.
    """
    if not same_questions(a, b):
        raise ValueError("a test needs two methods that were asked the same questions")
    by_type = a.hits / a.asked.sum(0) - b.hits / b.asked.sum(0)
    return np.column_stack([by_type, by_type.mean(axis=1)])


def sign_flip(parts: np.ndarray, flips: int = FLIPS, seed: int = 0) -> np.ndarray:
    """Return the two-sided p of differences that are sums of contributions whose signs are arbitrary if H0 is true.

    All sign patterns are tried if there are at most ``flips``. Otherwise that many random ones are tried, and the
    observed pattern counts as one more, so that p is never 0.

    Args:
        parts: (V, M) contribution of each cluster to each of M differences.
        flips: largest number of sign patterns.
        seed: seed of the random patterns.

    Returns:
        (M,) p.
    """
    observed = np.abs(parts.sum(0))
    threshold = observed - 1e-9 * np.abs(parts).sum(0)  # sums in another order differ in their last digits
    clusters = len(parts)
    exact = clusters < 62 and 2**clusters <= flips
    total = 2**clusters if exact else flips
    extreme, rng = np.zeros(parts.shape[1], dtype=np.int64), np.random.default_rng(seed)
    for first in range(0, total, CHUNK):
        count = min(CHUNK, total - first)
        if exact:
            bits = (np.arange(first, first + count)[:, None] >> np.arange(clusters)) & 1
        else:
            bits = rng.integers(0, 2, (count, clusters), dtype=np.int8)
        extreme += (np.abs((1.0 - 2.0 * bits) @ parts) >= threshold).sum(0)
    return extreme / total if exact else (extreme + 1) / (total + 1)


def discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Return the numbers of questions that a answers better than b and worse than b.

    Args:
        a: (Q,) 1 for a right and 0 for a wrong answer of a; with several seeds the share of right ones.
        b: (Q,) the same of b.
    """
    return int((a > b).sum()), int((a < b).sum())


def mcnemar(better: int, worse: int) -> float:
    """Return McNemar's exact two-sided p of discordant questions; 1 if there are none."""
    return float(stats.binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Return the p values of a family after Holm's step-down correction, in the given order."""
    order = sorted(range(len(p)), key=lambda number: p[number])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[number]))
        adjusted[number] = highest
    return adjusted


def stars(p: float) -> str:
    """Return the usual marks: * below 0.05, ** below 0.01, *** below 0.001."""
    return "*" * sum(p < limit for limit in (0.05, 0.01, 0.001))
