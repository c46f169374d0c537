"""Bootstrap intervals of accuracies and of paired differences of accuracies. Tests are in :mod:`.significance`.

Questions about one video are not independent, so clusters of questions are resampled, not questions. A cluster holds
all questions about one video, or about a pair of twin videos. A paired difference uses the same resamples for both
methods, which answered the same questions about the same videos.

Dimensions: V clusters, Y question types, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
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
    """Numbers of right answers and of questions, by cluster and question type.

    Attributes:
        hits: (V, Y) int64 number of right answers.
        asked: (V, Y) int64 number of questions.
        types: names of the Y question types.
    """

    hits: np.ndarray
    asked: np.ndarray
    types: tuple[str, ...]

    @classmethod
    def count(
        cls, clusters: Sequence[Hashable], types: Sequence[str], correct: Sequence[bool], exclude: Iterable[str] = ()
    ) -> Answers:
        """Count the answers to Q questions.

        Args:
            clusters: (Q,) cluster of each question.
            types: (Q,) type of each question.
            correct: (Q,) whether the answer is right.
            exclude: types to leave out.

        Raises:
            ValueError: no question is left.
        """
        left_out = set(exclude)
        counted = [one for one in zip(clusters, types, correct, strict=True) if one[1] not in left_out]
        if not counted:
            raise ValueError("no answered question of a counted type")
        columns = {name: number for number, name in enumerate(sorted({str(kind) for _, kind, _ in counted}))}
        rows = {cluster: number for number, cluster in enumerate(dict.fromkeys(cluster for cluster, _, _ in counted))}
        hits, asked = np.zeros((2, len(rows), len(columns)), dtype=np.int64)
        for cluster, kind, right in counted:
            place = rows[cluster], columns[str(kind)]
            asked[place] += 1
            hits[place] += bool(right)
        return cls(hits, asked, tuple(columns))

    def __add__(self, other: Answers) -> Answers:
        """Add up the answers of two runs on the same questions, such as with two seeds."""
        return Answers(self.hits + other.hits, self.asked + other.asked, self.types)

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
        """Share of all questions that were answered right, 0 to 1."""
        return float(self.hits.sum() / self.asked.sum())

    def only(self, kind: str) -> Answers:
        """Return the answers to questions of one type; all clusters are kept."""
        column = self.types.index(kind)
        return Answers(self.hits[:, column : column + 1], self.asked[:, column : column + 1], (kind,))


def macro_interval(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean accuracy over types with its 95 % interval."""
    return Interval(answers.macro, *_percentiles(macro_resamples(answers, resamples, seed)))


def macro_resamples(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return (R,) mean accuracies over types on resampled clusters, the same resamples for methods with as many."""
    return _macro(_resample(answers, resamples, seed))


def type_intervals(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Return the accuracy of each type with its 95 % interval.

    If all answers to a type are right, or all are wrong, they do not vary over resamples. The interval is then that of
    Clopper and Pearson for as many independent answers as there are clusters with a question of the type.
    """
    resampled = _resample(answers, resamples, seed)
    intervals = {}
    for column, (kind, value) in enumerate(answers.by_type.items()):
        low, high = _percentiles(resampled[:, column])
        if value in (0.0, 1.0):
            clusters = int((answers.asked[:, column] > 0).sum())
            low, high = _clopper_pearson(round(value * clusters), clusters)
        intervals[kind] = Interval(value, low, high)
    return intervals


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of Q numbers with its 95 % interval, for which their clusters are resampled.

    Args:
        values: (Q,) numbers, such as paired differences of two methods, question by question.
        clusters: (Q,) cluster of each number.
        resamples: number of resamples.
        seed: seed of the resamples.

    Raises:
        ValueError: there is no number.
    """
    if not len(values):
        raise ValueError("the mean of no numbers")
    known = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([known[cluster] for cluster in clusters])
    numbers = np.asarray(values, dtype=np.float64)
    weights = _weights(len(known), resamples, seed)
    means = (weights @ np.bincount(members, numbers)) / (weights @ np.bincount(members).astype(np.float64))
    return Interval(float(numbers.mean()), *_percentiles(means))


def mean_over_types(values: Sequence[float], kinds: Sequence[str], clusters: Sequence[Hashable]) -> Interval:
    """Return the mean over question types of a number per question, as a mean over questions with weights.

    Args:
        values: one per question.
        kinds: question type of each.
        clusters: cluster of each, see :func:`clustered_mean`.
    """
    counts = Counter(kinds)
    weights = [len(kinds) / (len(counts) * counts[kind]) for kind in kinds]
    return clustered_mean([value * weight for value, weight in zip(values, weights, strict=True)], clusters)


def clustered_share(
    values: Sequence[float], clusters: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of Q shares, 0 to 1, as :func:`clustered_mean`.

    If all are 0, or all are 1, the interval is that of Clopper and Pearson, as in :func:`type_intervals`.
    """
    interval = clustered_mean(values, clusters, resamples, seed)
    if interval.value not in (0.0, 1.0):
        return interval
    n = len(set(clusters))
    return Interval(interval.value, *_clopper_pearson(round(interval.value * n), n))


def paired_difference(a: Answers, b: Answers, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the mean accuracy over types of a minus that of b, with the 95 % interval of the paired difference.

    One of the two may have been asked every question several times, for example with several seeds.

    Raises:
        ValueError: a and b were not asked the same questions.
    """
    if not same_questions(a, b):
        raise ValueError("a paired difference needs two methods that were asked the same questions")
    differences = _macro(_resample(a, resamples, seed)) - _macro(_resample(b, resamples, seed))
    return Interval(a.macro - b.macro, *_percentiles(differences))


def same_questions(a: Answers, b: Answers) -> bool:
    """Whether a and b were asked the same number of questions by cluster and type, up to a common factor."""
    if a.types != b.types or a.asked.shape != b.asked.shape:
        return False
    return np.array_equal(a.asked * b.asked.sum(), b.asked * a.asked.sum())


def _resample(answers: Answers, resamples: int, seed: int) -> np.ndarray:
    """Return (R, Y) accuracies on resampled clusters; NaN for a type of which a resample has no question."""
    weights = _weights(len(answers.asked), resamples, seed)
    hits, asked = weights @ answers.hits.astype(np.float64), weights @ answers.asked.astype(np.float64)
    return np.divide(hits, asked, out=np.full(asked.shape, np.nan), where=asked > 0)


@lru_cache(maxsize=32)
def _weights(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """Return (R, V) how often each resample contains each cluster.

    The result depends on the arguments alone, so that the resamples of two methods are paired. The counts are floats
    for the sake of the matrix product, which is exact for them.
    """
    counts = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    return counts.astype(np.float64)


def _macro(accuracies: np.ndarray) -> np.ndarray:
    """Return (R,) means over the types of which a resample has a question; NaN if it has none."""
    known = ~np.isnan(accuracies)
    if known.all():
        return accuracies.mean(axis=1)
    counts = known.sum(axis=1)
    total = np.where(known, accuracies, 0.0).sum(axis=1)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % percentiles of (R,) values that are not NaN."""
    low, high = np.percentile(values[~np.isnan(values)], [2.5, 97.5]).tolist()
    return low, high


@lru_cache(maxsize=4096)
def _clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    return float(interval.low), float(interval.high)
