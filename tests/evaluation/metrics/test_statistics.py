"""Intervals cover what they claim to cover, and pairing narrows them."""

import numpy as np
import pytest
from scipy import stats

from framefold.evaluation.metrics.statistics import (
    Answers,
    Interval,
    clustered_mean,
    macro_interval,
    paired_difference,
    type_intervals,
)


def answers(correct: np.ndarray) -> Answers:
    """Return the answers to one question of each type about each video, right where (V, Y) booleans are true."""
    return Answers(
        correct.astype(np.int64), np.ones_like(correct, dtype=np.int64), tuple(map(str, range(correct.shape[1])))
    )


def test_answers_are_counted_by_cluster_and_type_without_excluded_types() -> None:
    columns = [7, 7, 9], ["needle", "needle", "count"], [True, False, True]
    counted = Answers.count(*columns)
    assert counted.by_type == {"count": 1.0, "needle": 0.5}
    assert counted.macro == 0.75 and counted.micro == pytest.approx(2 / 3)
    assert Answers.count(*columns, exclude=["count"]).macro == 0.5
    with pytest.raises(ValueError, match="no answered question"):
        Answers.count(*columns, exclude=["count", "needle"])


def test_interval_agrees_with_the_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    correct = rng.random((400, 1)) < 0.7
    interval = macro_interval(answers(correct))
    low, high = stats.norm.interval(0.95, loc=correct.mean(), scale=stats.sem(correct[:, 0], ddof=0))
    assert interval.value == correct.mean()
    assert interval.low == pytest.approx(low, abs=0.01) and interval.high == pytest.approx(high, abs=0.01)


def test_intervals_cover_the_truth_in_95_percent_of_runs() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([0.9, 0.6, 0.3])
    covered, types, pairs = 0, np.zeros(3), 0
    runs = 1500
    for _ in range(runs):
        ease = rng.normal(0, 0.1, (120, 1))  # questions about one video are correlated
        luck = rng.random((120, 3))
        one, other = (
            answers(luck < truth + ease),
            answers((luck + rng.normal(0, 0.1, (120, 3))) % 1 < truth + ease - 0.05),
        )
        interval = macro_interval(one, resamples=400)
        covered += interval.low <= truth.mean() <= interval.high
        types += [i.low <= t <= i.high for i, t in zip(type_intervals(one, 400).values(), truth, strict=True)]
        paired = paired_difference(one, other, resamples=400)
        pairs += paired.low <= 0.05 <= paired.high
    assert 0.93 <= covered / runs <= 0.97
    assert (types / runs >= 0.93).all() and (types / runs <= 0.97).all()
    assert 0.93 <= pairs / runs <= 0.97


def test_interval_of_a_type_without_variation_is_that_of_clopper_and_pearson() -> None:
    correct = np.ones((30, 2), bool)
    correct[:, 1] = False
    found = type_intervals(answers(correct))
    assert (found["0"].value, found["0"].high) == (1.0, 1.0) and found["0"].low == pytest.approx(0.025 ** (1 / 30))
    assert (found["1"].value, found["1"].low) == (0.0, 0.0) and found["1"].high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_type_in_few_clusters_has_an_interval() -> None:
    asked = np.ones((6, 2), np.int64)
    asked[2:, 0] = 0  # some resamples have no question of it
    hits = asked.copy()
    hits[0] = 0
    few, other = (
        Answers(hits, asked, ("few", "many")).only("few"),
        Answers(asked - hits, asked, ("few", "many")).only("few"),
    )
    assert type_intervals(few)["few"].low == 0.0 and type_intervals(few)["few"].high == 1.0
    assert paired_difference(few, other).high == 1.0


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.random((200, 4))
    a, b = answers(difficulty < 0.7), answers(difficulty < 0.65)
    paired = paired_difference(a, b)
    alone = macro_interval(a)
    assert paired.value == pytest.approx(a.macro - b.macro)
    assert paired.low > 0 and paired.high - paired.low < alone.high - alone.low


def test_different_questions_are_not_compared() -> None:
    a, b = answers(np.ones((3, 2), bool)), answers(np.ones((4, 2), bool))
    with pytest.raises(ValueError, match="same questions"):
        paired_difference(a, b)


def test_method_with_two_seeds_is_paired_with_one_that_has_one() -> None:
    rng = np.random.default_rng(4)
    a, b = answers(rng.random((60, 3)) < 0.8), answers(rng.random((60, 3)) < 0.5)
    twice = Answers(2 * b.hits, 2 * b.asked, b.types)
    assert paired_difference(a, twice) == paired_difference(a, b)
    uneven = Answers(b.hits, b.asked + np.eye(60, 3, dtype=np.int64), b.types)
    with pytest.raises(ValueError, match="same questions"):
        paired_difference(a, uneven)


def test_type_that_a_resample_lacks_does_not_count_as_wrong() -> None:
    asked = np.zeros((5, 2), dtype=np.int64)
    asked[:, 0] = asked[0, 1] = 1  # only one video has the second type
    assert macro_interval(Answers(asked, asked, ("a", "b"))).low == 1.0


def test_mean_of_numbers_resamples_their_clusters() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=400), np.arange(400)
    independent = clustered_mean(values.tolist(), clusters.tolist())
    assert independent.value == pytest.approx(values.mean())
    assert independent.high - independent.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    repeated = clustered_mean(np.repeat(values, 4).tolist(), np.repeat(clusters, 4).tolist())  # no new information
    assert (repeated.low, repeated.high) == pytest.approx((independent.low, independent.high))
    assert clustered_mean([1.0, 1.0], ["a", "a"]) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no numbers"):
        clustered_mean([], [])
