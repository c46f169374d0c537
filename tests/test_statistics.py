"""Intervals cover what they claim to cover, and pairing helps."""

import numpy as np
import pytest
from scipy import stats

from framefold.training.statistics import Answers, macro_interval, paired_difference


def answers(correct: np.ndarray) -> Answers:
    """(V, Y) booleans: one question of each type about each video."""
    return Answers(
        correct.astype(np.int64), np.ones_like(correct, dtype=np.int64), tuple(map(str, range(correct.shape[1])))
    )


def test_counts_add_up_and_excluded_types_are_left_out() -> None:
    rows = [
        {"video": 7, "type": "needle", "correct": True},
        {"video": 7, "type": "needle", "correct": False},
        {"video": 9, "type": "count", "correct": True},
    ]
    counted = Answers.count(rows)
    assert counted.by_type == {"count": 1.0, "needle": 0.5}
    assert counted.macro == 0.75 and counted.micro == pytest.approx(2 / 3)
    assert Answers.count(rows, exclude=["count"]).macro == 0.5
    with pytest.raises(ValueError, match="no answered question"):
        Answers.count(rows, exclude=["count", "needle"])


def test_the_interval_agrees_with_the_normal_one_on_a_known_case() -> None:
    rng = np.random.default_rng(1)
    correct = rng.random((400, 1)) < 0.7
    interval = macro_interval(answers(correct))
    low, high = stats.norm.interval(0.95, loc=correct.mean(), scale=stats.sem(correct[:, 0], ddof=0))
    assert interval.value == correct.mean()
    assert interval.low == pytest.approx(low, abs=0.01) and interval.high == pytest.approx(high, abs=0.01)


def test_intervals_cover_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([0.9, 0.6, 0.3])
    covered = 0
    for _ in range(400):
        ease = rng.normal(0, 0.1, (120, 1))  # questions about one video stand and fall together
        interval = macro_interval(answers(rng.random((120, 3)) < truth + ease), resamples=300)
        covered += interval.low <= truth.mean() <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.random((200, 4))
    a, b = answers(difficulty < 0.7), answers(difficulty < 0.65)
    paired = paired_difference(a, b)
    alone = macro_interval(a)
    assert paired.value == pytest.approx(a.macro - b.macro)
    assert paired.low > 0 and paired.high - paired.low < alone.high - alone.low


def test_unequal_questions_are_not_compared() -> None:
    a, b = answers(np.ones((3, 2), bool)), answers(np.ones((4, 2), bool))
    with pytest.raises(ValueError, match="same questions"):
        paired_difference(a, b)


def test_a_method_asked_twice_is_paired_with_one_asked_once() -> None:
    rng = np.random.default_rng(4)
    a, b = answers(rng.random((60, 3)) < 0.8), answers(rng.random((60, 3)) < 0.5)
    twice = Answers(2 * b.hits, 2 * b.asked, b.types)
    assert paired_difference(a, twice) == paired_difference(a, b)
    uneven = Answers(b.hits, b.asked + np.eye(60, 3, dtype=np.int64), b.types)
    with pytest.raises(ValueError, match="same questions"):
        paired_difference(a, uneven)


def test_a_type_that_a_resample_misses_does_not_count_as_wrong() -> None:
    asked = np.zeros((5, 2), dtype=np.int64)
    asked[:, 0] = asked[0, 1] = 1  # one video alone has the second type
    assert macro_interval(Answers(asked, asked, ("a", "b"))).low == 1.0
