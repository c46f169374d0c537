"""Whether two measurements order methods in the same way: Spearman's rank correlation with bootstrap intervals.

Methods are resampled, since others could have been published, and so are videos, if the answers to each are known. A
method that is drawn twice counts twice, in every list that contains it.

Dimensions: R resamples, M methods of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .statistics import RESAMPLES, Interval

SMALLEST = 3  # methods of a list: the correlation of two is 1 or -1 whatever they are


@dataclass(frozen=True)
class RankedList:
    """Methods that were measured twice.

    Attributes:
        methods: (M,) names, at least ``SMALLEST``.
        published: (M,) accuracies elsewhere.
        here: (M,) accuracies here.
        resampled: (R, M) accuracies here on resampled videos; None if the answers are not known.
    """

    methods: tuple[str, ...]
    published: np.ndarray
    here: np.ndarray
    resampled: np.ndarray | None = None


def spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return Spearman's rank correlation over the last dimension; equal numbers share their mean rank.

    Args:
        x: (..., M).
        y: (..., M).
        counts: (..., M) how often each pair of numbers occurs; once by default.

    Returns:
        (...), NaN where all numbers of x or of y are equal.
    """
    weights = np.ones(np.broadcast_shapes(x.shape, y.shape)) if counts is None else counts
    a, b = (_centred_ranks(numbers, weights) for numbers in (x, y))
    variances = (weights * a * a).sum(-1) * (weights * b * b).sum(-1)
    covariance = (weights * a * b).sum(-1)
    return np.divide(covariance, np.sqrt(variances), out=np.full(variances.shape, np.nan), where=variances > 1e-9)


def _centred_ranks(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (..., M) mean ranks of numbers that occur several times, less their mean."""
    below = (numbers[..., None, :] < numbers[..., :, None]) * weights[..., None, :]
    equal = (numbers[..., None, :] == numbers[..., :, None]) * weights[..., None, :]
    ranks = below.sum(-1) + (equal.sum(-1) + 1) / 2
    return ranks - (weights * ranks).sum(-1, keepdims=True) / np.maximum(weights.sum(-1, keepdims=True), 1)


def rank_agreement(lists: Sequence[RankedList], resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return Spearman's correlation over all lists, with its 95 % bootstrap interval.

    It is the mean over the lists, weighted by their numbers of methods less one: the inverse variance of the
    correlation of unrelated numbers. A list whose methods are all equal in one of the measurements does not count.

    Args:
        lists: at least one.
        resamples: number of resamples, R of every list that has resampled accuracies.
        seed: seed of the resamples.

    Raises:
        ValueError: there is no list, or one has too few methods.
    """
    if not lists or any(len(one.methods) < SMALLEST for one in lists):
        raise ValueError(f"rank agreement needs lists of at least {SMALLEST} methods")
    drawn = _draw(sorted({name for one in lists for name in one.methods}), resamples, seed)
    counts = [np.stack([drawn[name] for name in one.methods], axis=1) for one in lists]
    values = np.array([[spearman(one.published, one.here) for one in lists]])
    resampled = np.stack([_resampled(*pair) for pair in zip(lists, counts, strict=True)], axis=1)
    value = _pool(values, np.array([[len(one.methods) for one in lists]]))[0]
    known = _pool(resampled, np.stack([count.sum(axis=1) for count in counts], axis=1))
    known = known[~np.isnan(known)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (np.nan, np.nan)
    return Interval(float(value), low, high)


def _draw(names: Sequence[str], resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Return for each name (R,) how often each resample contains it."""
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return {name: counts[:, number].astype(np.float64) for number, name in enumerate(names)}


def _resampled(one: RankedList, counts: np.ndarray) -> np.ndarray:
    return spearman(one.published[None], one.here[None] if one.resampled is None else one.resampled, counts)


def _pool(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return (R,) means of (R, lists) correlations that are known; NaN where none is."""
    known = ~np.isnan(values)
    weights = np.where(known, np.maximum(sizes - 1, 0), 0)
    total = (weights * np.where(known, values, 0)).sum(axis=1)
    return np.divide(total, weights.sum(axis=1), out=np.full(len(values), np.nan), where=weights.sum(axis=1) > 0)


def mutual_agreement(groups: Sequence[Sequence[RankedList]]) -> tuple[float, int]:
    """Return how well published lists agree with each other, which limits how well anything can agree with them.

    Args:
        groups: lists that are compared with each other, such as those of one budget.

    Returns:
        Pooled correlation over all pairs of lists with at least ``SMALLEST`` common methods, and the number of pairs;
        NaN without a pair.
    """
    values, sizes = [], []
    for one, other in (pair for group in groups for pair in combinations(group, 2)):
        common = [name for name in one.methods if name in other.methods]
        if len(common) >= SMALLEST:
            a, b = (np.array([of.published[of.methods.index(name)] for name in common]) for of in (one, other))
            values.append(float(spearman(a, b)))
            sizes.append(len(common))
    return float(_pool(np.array([values]), np.array([sizes]))[0]), len(values)
