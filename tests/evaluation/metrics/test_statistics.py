"""Intervals cover what they claim to cover, and pairing helps; p values are those of scipy and of brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats

from framefold.evaluation.metrics.significance import contributions, discordant, holm, mcnemar, sign_flip, stars
from framefold.evaluation.metrics.statistics import Answers, macro_interval, paired_difference, type_intervals


def answers(correct: np.ndarray) -> Answers:
    """(V, Y) booleans: one question of each type about each video."""
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
    covered, types, pairs = 0, np.zeros(3), 0
    runs = 1500
    for _ in range(runs):
        ease = rng.normal(0, 0.1, (120, 1))  # questions about one video stand and fall together
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


def test_where_every_answer_is_right_the_interval_of_a_type_is_that_of_clopper_and_pearson() -> None:
    correct = np.ones((30, 2), bool)
    correct[:, 1] = False
    found = type_intervals(answers(correct))
    assert (found["0"].value, found["0"].high) == (1.0, 1.0) and found["0"].low == pytest.approx(0.025 ** (1 / 30))
    assert (found["1"].value, found["1"].low) == (0.0, 0.0) and found["1"].high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_a_type_of_few_draws_has_an_interval() -> None:
    asked = np.ones((6, 2), np.int64)
    asked[2:, 0] = 0  # some resamples hold no question of it
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


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_questions() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        a, b = rng.random(40) < 0.7, rng.random(40) < 0.5
        better, worse = discordant(a.astype(float), b.astype(float))
        assert (better, worse) == (int((a & ~b).sum()), int((~a & b).sum()))
        tail = sum(stats.binom.pmf(k, better + worse, 0.5) for k in range(min(better, worse) + 1))
        assert mcnemar(better, worse) == pytest.approx(min(1.0, 2 * tail))
        assert mcnemar(better, worse) == pytest.approx(stats.binomtest(better, better + worse, 0.5).pvalue)
    assert mcnemar(0, 0) == 1.0


def test_of_several_seeds_a_question_goes_to_who_is_more_often_right() -> None:
    assert discordant(np.array([2 / 3, 1 / 3, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])) == (1, 1)


def test_holm_is_the_step_down_of_bonferroni() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]
    rng = np.random.default_rng(6)
    for _ in range(20):
        p = rng.random(7) ** 3
        rejected = set()  # by hand: reject the smallest while it is below alpha / what is left
        for left, place in enumerate(np.argsort(p)):
            if p[place] > 0.05 / (7 - left):
                break
            rejected.add(int(place))
        assert {place for place, one in enumerate(holm(p.tolist())) if one <= 0.05} == rejected


def test_the_sign_flip_test_is_that_of_all_sign_patterns() -> None:
    rng = np.random.default_rng(7)
    parts = rng.normal(0.3, 1, (9, 3))
    patterns = np.array(list(itertools.product([1, -1], repeat=9)))
    brute = (np.abs(patterns @ parts) >= np.abs(parts.sum(0)) - 1e-12).mean(0)
    assert sign_flip(parts).tolist() == pytest.approx(brute.tolist())
    ours = sign_flip(parts, flips=100)  # too few for all of them
    assert ours.tolist() == pytest.approx(brute.tolist(), abs=0.15) and (ours > 0).all()
    many = rng.normal(0.15, 1, (60, 2))
    how = {"permutation_type": "samples", "alternative": "greater", "n_resamples": 20_000, "rng": 1}
    theirs = [stats.permutation_test((column,), lambda x: abs(x.sum()), **how).pvalue for column in many.T]
    assert sign_flip(many).tolist() == pytest.approx(theirs, abs=0.015)


def test_the_sign_flip_test_errs_as_often_as_it_says_where_questions_cluster_and_mcnemar_more_often() -> None:
    rng = np.random.default_rng(8)
    flips = mcnemars = 0
    runs = 300
    for _ in range(runs):
        luck = rng.random((40, 1)) < 0.5  # all questions about a video go to one of two equal methods
        a, b = answers(np.repeat(luck, 5, axis=1)), answers(np.repeat(~luck, 5, axis=1))
        flips += bool(sign_flip(contributions(a, b)[:, -1:], flips=999)[0] < 0.05)
        mcnemars += mcnemar(*discordant(a.hits.ravel(), b.hits.ravel())) < 0.05
    assert flips / runs <= 0.08
    assert mcnemars / runs > 0.25, "questions about one video are not independent"


def test_the_parts_of_a_difference_add_up_to_it() -> None:
    rng = np.random.default_rng(9)
    a, b = answers(rng.random((30, 4)) < 0.6), answers(rng.random((30, 4)) < 0.5)
    twice = Answers(2 * b.hits, 2 * b.asked, b.types)
    for other in (b, twice):
        total = contributions(a, other).sum(0)
        assert total[-1] == pytest.approx(a.macro - b.macro)
        assert total[:-1].tolist() == pytest.approx([a.by_type[kind] - b.by_type[kind] for kind in a.types])
    with pytest.raises(ValueError, match="same questions"):
        contributions(a, answers(np.ones((3, 4), bool)))


def test_marks_of_significance() -> None:
    assert [stars(p) for p in (0.2, 0.05, 0.049, 0.009, 0.0009)] == ["", "", "*", "**", "***"]
