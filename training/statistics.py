"""How sure we are: bootstrap intervals of macro accuracy, and of paired differences.

Questions about one video are not independent, so videos are resampled, not questions. Paired differences use the same
resamples for both methods: both answered the same questions about the same videos.

Dimensions: V videos, Y question types, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A point estimate and its 95 % percentile interval, all in the unit of the estimate."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Answers:
    """Correct answers and questions asked, counted by video and type: two (V, Y) int64 arrays, and the Y type names."""

    hits: np.ndarray
    asked: np.ndarray
    types: tuple[str, ...]

    @classmethod
    def count(cls, rows: Sequence[Mapping[str, object]], exclude: Sequence[str] = ()) -> Answers:
        """Count answer rows ``{"video": int, "type": str, "correct": bool}``; excluded types are left out.

        Raises:
            ValueError: no row is left.
        """
        rows = [row for row in rows if row["type"] not in exclude]
        if not rows:
            raise ValueError("no answered question of a counted type")
        types = tuple(sorted({str(row["type"]) for row in rows}))
        videos = {video: i for i, video in enumerate(dict.fromkeys(row["video"] for row in rows))}
        hits, asked = np.zeros((2, len(videos), len(types)), dtype=np.int64)
        for row in rows:
            place = videos[row["video"]], types.index(str(row["type"]))
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


def macro_interval(answers: Answers, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Macro accuracy with its 95 % interval."""
    draws = _resampled_macros(answers, resamples, seed)
    return Interval(answers.macro, *np.percentile(draws, [2.5, 97.5]).tolist())


def paired_difference(a: Answers, b: Answers, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Macro accuracy of a minus that of b on the same questions, with the 95 % interval of the paired difference.

    One of them may have been asked several times (seeds), if that holds for every question alike.

    Raises:
        ValueError: a and b were not asked the same questions.
    """
    if not same_questions(a, b):
        raise ValueError("a paired difference needs two methods that were asked the same questions")
    draws = _resampled_macros(a, resamples, seed) - _resampled_macros(b, resamples, seed)
    return Interval(a.macro - b.macro, *np.percentile(draws, [2.5, 97.5]).tolist())


def same_questions(a: Answers, b: Answers) -> bool:
    """Whether a and b were asked as many questions of each type about each video, up to a common number of repeats."""
    if a.types != b.types or a.asked.shape != b.asked.shape:
        return False
    return np.array_equal(a.asked * b.asked.sum(), b.asked * a.asked.sum())


def _resampled_macros(answers: Answers, resamples: int, seed: int) -> np.ndarray:
    """(R,) macro accuracies of videos drawn with replacement; draws depend on V and the seed alone, so they pair."""
    videos = len(answers.asked)
    weights = np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=resamples)
    asked = weights @ answers.asked
    accuracy = np.divide(weights @ answers.hits, asked, out=np.full(asked.shape, np.nan), where=asked > 0)
    return np.nanmean(accuracy, axis=1)  # a type that a resample does not hold is left out of its mean
