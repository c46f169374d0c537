"""Comparison of what a host says with the right answer, beyond right or wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

OPEN_WORDS = 3  # median number of words from which answers count as open

OPEN_SHARE = 0.5  # share of different answers among all from which they count as open


def token_overlap(said: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """Return the F1 of two bags of tokens, as SQuAD defines it for words: 1 for equal bags, 0 for disjoint ones."""
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else 0.0


def are_open(answers: Sequence[str]) -> bool:
    """Return whether right answers are sentences of their own rather than choices from a few words or letters."""
    lengths = sorted(len(answer.split()) for answer in answers)
    long = bool(lengths) and lengths[len(lengths) // 2] >= OPEN_WORDS
    return long and len(set(answers)) > OPEN_SHARE * len(answers)
