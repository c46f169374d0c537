"""Overlap of answers, and whether answers are open."""

from __future__ import annotations

import pytest

from framefold.evaluation.metrics.answers import are_open, token_overlap


def test_overlap_is_the_f1_of_two_bags_of_tokens() -> None:
    for said, right, f1 in [
        ([1, 2, 3], [3, 2, 1], 1.0),
        ([1, 2, 3], [4, 5], 0.0),
        ([1, 2], [1, 2, 3, 4], 2 / 3),
        ([1, 1, 1], [1], 0.5),
        ([], [1], 0.0),
        ([], [], 0.0),
    ]:
        assert token_overlap(said, right) == pytest.approx(f1), (said, right)


def test_sentences_are_open_answers_and_words_letters_and_numbers_are_not() -> None:
    sentences = [f"a {colour} ball rolls down" for colour in ("red", "blue", "green", "grey")]
    assert are_open(sentences) and are_open([*sentences, "yes"])
    closed = (["A", "B", "A"], ["red", "blue"], ["1", "2", "17"], ["it was red", "it was blue"] * 9, [])
    assert not any(are_open(answers) for answers in closed)
