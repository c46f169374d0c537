"""p values agree with scipy and with brute force, and the sign-flip test keeps its level with clustered questions."""

import itertools

import numpy as np
import pytest
from scipy import stats

from framefold.evaluation.metrics.significance import contributions, discordant, holm, mcnemar, sign_flip, stars
from framefold.evaluation.metrics.statistics import Answers


def answers(correct: np.ndarray) -> Answers:
    """Return the answers to one question of each type about each video, right where (V, Y) booleans are true."""
    return Answers(
        correct.astype(np.int64), np.ones_like(correct, dtype=np.int64), tuple(map(str, range(correct.shape[1])))
    )


def test_mcnemar_is_the_exact_binomial_test_of_discordant_questions() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        a, b = rng.random(40) < 0.7, rng.random(40) < 0.5
        better, worse = discordant(a.astype(float), b.astype(float))
        assert (better, worse) == (int((a & ~b).sum()), int((~a & b).sum()))
        tail = sum(stats.binom.pmf(k, better + worse, 0.5) for k in range(min(better, worse) + 1))
        assert mcnemar(better, worse) == pytest.approx(min(1.0, 2 * tail))
        assert mcnemar(better, worse) == pytest.approx(stats.binomtest(better, better + worse, 0.5).pvalue)
    assert mcnemar(0, 0) == 1.0


def test_with_several_seeds_the_method_that_is_right_more_often_is_better() -> None:
    assert discordant(np.array([2 / 3, 1 / 3, 1.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])) == (1, 1)


def test_holm_is_bonferroni_step_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]
    rng = np.random.default_rng(6)
    for _ in range(20):
        p = rng.random(7) ** 3
        rejected = set()  # step-down by definition: reject the smallest p while it is below alpha / remaining tests
        for left, place in enumerate(np.argsort(p)):
            if p[place] > 0.05 / (7 - left):
                break
            rejected.add(int(place))
        assert {place for place, one in enumerate(holm(p.tolist())) if one <= 0.05} == rejected


def test_sign_flip_agrees_with_brute_force_and_scipy() -> None:
    rng = np.random.default_rng(7)
    parts = rng.normal(0.3, 1, (9, 3))
    patterns = np.array(list(itertools.product([1, -1], repeat=9)))
    brute = (np.abs(patterns @ parts) >= np.abs(parts.sum(0)) - 1e-12).mean(0)
    assert sign_flip(parts).tolist() == pytest.approx(brute.tolist())
    ours = sign_flip(parts, flips=100)  # too few for all patterns
    assert ours.tolist() == pytest.approx(brute.tolist(), abs=0.15) and (ours > 0).all()
    many = rng.normal(0.15, 1, (60, 2))
    how = {"permutation_type": "samples", "alternative": "greater", "n_resamples": 20_000, "rng": 1}
    theirs = [stats.permutation_test((column,), lambda x: abs(x.sum()), **how).pvalue for column in many.T]
    assert sign_flip(many).tolist() == pytest.approx(theirs, abs=0.015)


def test_sign_flip_keeps_its_level_with_clustered_questions_and_mcnemar_does_not() -> None:
    rng = np.random.default_rng(8)
    flips = mcnemars = 0
    runs = 300
    for _ in range(runs):
        luck = rng.random((40, 1)) < 0.5  # one of two equal methods answers all questions about a video right
        a, b = answers(np.repeat(luck, 5, axis=1)), answers(np.repeat(~luck, 5, axis=1))
        flips += bool(sign_flip(contributions(a, b)[:, -1:], flips=999)[0] < 0.05)
        mcnemars += mcnemar(*discordant(a.hits.ravel(), b.hits.ravel())) < 0.05
    assert flips / runs <= 0.08
    assert mcnemars / runs > 0.25, "questions about one video are not independent"


def test_contributions_add_up_to_the_difference() -> None:
    rng = np.random.default_rng(9)
    a, b = answers(rng.random((30, 4)) < 0.6), answers(rng.random((30, 4)) < 0.5)
    twice = Answers(2 * b.hits, 2 * b.asked, b.types)
    for other in (b, twice):
        total = contributions(a, other).sum(0)
        assert total[-1] == pytest.approx(a.macro - b.macro)
        assert total[:-1].tolist() == pytest.approx([a.by_type[kind] - b.by_type[kind] for kind in a.types])
    with pytest.raises(ValueError, match="same questions"):
        contributions(a, answers(np.ones((3, 4), bool)))


def test_stars_mark_the_usual_levels() -> None:
    assert [stars(p) for p in (0.2, 0.05, 0.049, 0.009, 0.0009)] == ["", "", "*", "**", "***"]
