"""The reader of the text: what it can know, and that it never sees an answer of the same video."""

from __future__ import annotations

import numpy as np

from framefold.evaluation.metrics.statistics import Answers, macro_interval
from framefold.evaluation.metrics.text_reader import text_only_guesses


def test_answers_that_follow_from_the_words_are_guessed() -> None:
    words = ["red", "blue"] * 10
    texts = [f"which colour is the {word} ball ?" for word in words]
    assert text_only_guesses(texts, ["colour"] * 20, words, range(20)) == words


def test_each_type_has_its_own_answers_and_the_commonest_wins_without_a_hint() -> None:
    types = ["count", "shape"] * 15
    answers = [("two" if number % 10 else "six") if kind == "count" else "disc" for number, kind in enumerate(types)]
    guesses = text_only_guesses(["what ?"] * 30, types, answers, range(30))
    assert guesses == ["two", "disc"] * 15


def test_no_guess_has_seen_an_answer_about_its_own_video() -> None:
    questions, clusters = [f"word{number // 2}" for number in range(20)], [number // 2 for number in range(20)]
    answers = [f"answer{cluster}" for cluster in clusters]  # known only from the other question about the video
    guesses = text_only_guesses(questions, ["needle"] * 20, answers, clusters)
    assert not any(guess == answer for guess, answer in zip(guesses, answers, strict=True))
    assert text_only_guesses(["a", "a"], ["one", "two"], ["x", "y"], [0, 1]) == [None, None]


def test_the_interval_of_its_accuracy_covers_that_of_guessing() -> None:
    rng, covered, runs = np.random.default_rng(0), 0, 300
    clusters = (np.arange(1000) // 2).tolist()
    for _ in range(runs):  # 70 % of the answers are the same one, and the text says nothing
        answers = np.where(rng.random(1000) < 0.7, "yes", "no").tolist()
        guesses = text_only_guesses(["a ?"] * 1000, ["pair"] * 1000, answers, clusters)
        right = [guess == answer for guess, answer in zip(guesses, answers, strict=True)]
        interval = macro_interval(Answers.count(clusters, ["pair"] * 1000, right), resamples=400)
        covered += interval.low <= 0.7 <= interval.high
    assert 0.93 <= covered / runs <= 0.98
