"""A reader of the questions alone: how many answers can be guessed without the video and without the host.

A naive Bayes classifier over words and pairs of neighbouring words learns the answers to the questions about other
videos, one per question type. Its accuracy is a floor: what a method has above it comes from the video.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

FOLDS = 5  # parts of the videos; the questions about each are answered from the others


def text_only_guesses(
    questions: Sequence[str], types: Sequence[str], answers: Sequence[str], clusters: Sequence[Hashable]
) -> list[str | None]:
    """Return a guess for each of Q questions, from the answers to those about videos of other clusters.

    Args:
        questions: Q texts.
        types: Q question types.
        answers: Q right answers.
        clusters: Q clusters; no guess has seen an answer of its own cluster.

    Returns:
        Q answers; None where no other cluster has a question of the type.
    """
    fold_of = {cluster: number % FOLDS for number, cluster in enumerate(dict.fromkeys(clusters))}
    guesses: list[str | None] = [None] * len(questions)
    for fold in range(FOLDS):
        readers: dict[str, TypeReader] = defaultdict(TypeReader)
        for number, cluster in enumerate(clusters):
            if fold_of[cluster] != fold:
                readers[types[number]].learn(questions[number], answers[number])
        for number, cluster in enumerate(clusters):
            if fold_of[cluster] == fold:
                guesses[number] = readers[types[number]].guess(questions[number])
    return guesses


class TypeReader:
    """Naive Bayes over the questions of one type."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.words: dict[str, Counter[str]] = defaultdict(Counter)
        self._guesses: dict[str, str | None] = {}

    def learn(self, question: str, answer: str) -> None:
        """Count a question and its answer."""
        self.answers[answer] += 1
        self.words[answer].update(_features(question))

    def guess(self, question: str) -> str | None:
        """Return the likeliest answer, the first in the alphabet of equal ones; None if nothing was learned."""
        if question not in self._guesses:
            known = _features(question)
            scores = {answer: self._score(answer, known) for answer in sorted(self.answers)}
            self._guesses[question] = max(scores, key=lambda answer: scores[answer], default=None)
        return self._guesses[question]

    def _score(self, answer: str, features: Iterable[str]) -> float:
        count, words = self.answers[answer], self.words[answer]
        return math.log(count) + sum(math.log((words[one] + 1) / (count + 2)) for one in features)


def _features(question: str) -> set[str]:
    words = question.lower().split()
    return {*words, *(" ".join(pair) for pair in pairwise(words))}
