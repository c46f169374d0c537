"""Spearman's correlation of orders, its pooling over lists, and the coverage of its bootstrap interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from framefold.evaluation.metrics.rank_agreement import RankedList, mutual_agreement, rank_agreement, spearman

NAMES = tuple("abcdefghijkl")


def ranked(published: list[float], here: list[float], names: str | None = None) -> RankedList:
    methods = tuple(names or NAMES[: len(published)])
    return RankedList(methods, np.array(published, float), np.array(here, float))


@pytest.mark.parametrize(
    ("x", "y", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 21, 90], 1.0),
        ([1, 2, 3, 4], [9, 7, 5, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 0.5),
        ([1, 1, 2, 3], [1, 2, 3, 4], 3 / np.sqrt(10)),
    ],
)
def test_orders_written_by_hand_have_their_correlation(x: list[float], y: list[float], rho: float) -> None:
    assert float(spearman(np.array(x), np.array(y))) == pytest.approx(rho)
    assert float(spearman(np.array(y), np.array(x))) == pytest.approx(rho)


def test_correlation_is_that_of_scipy_also_with_ties_and_counts() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (40, 8)), rng.integers(0, 5, (40, 8))
    counts = rng.multinomial(8, np.full(8, 1 / 8), size=40)
    found = spearman(x, y, counts.astype(float))
    for one in range(40):
        pair = np.repeat(x[one], counts[one]), np.repeat(y[one], counts[one])
        assert found[one] == pytest.approx(spearmanr(*pair).statistic, abs=1e-12)


def test_correlation_with_equal_numbers_is_not_defined() -> None:
    assert np.isnan(spearman(np.ones(4), np.arange(4)))
    assert np.isnan(spearman(np.arange(4), np.arange(4), np.array([3.0, 0, 0, 0])))


def test_lists_are_pooled_by_their_numbers_of_methods() -> None:
    agree, reverse = ranked([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), ranked([1, 2, 3], [3, 2, 1])
    assert rank_agreement([agree, reverse]).value == pytest.approx((4 * 1 - 2 * 1) / 6)
    undefined = ranked([1, 1, 1, 1], [1, 2, 3, 4])
    assert rank_agreement([agree, undefined]).value == pytest.approx(1)
    assert np.isnan(rank_agreement([undefined]).value)


@pytest.mark.parametrize("lists", [[], [ranked([1, 2], [1, 2])]])
def test_too_few_methods_are_refused(lists: list[RankedList]) -> None:
    with pytest.raises(ValueError, match="at least 3 methods"):
        rank_agreement(lists)


def test_interval_contains_the_population_value_as_often_as_it_should() -> None:
    """Methods are drawn from a population with a known correlation; half of them are in a second list."""
    rng, inside, wide, correlation = np.random.default_rng(0), 0, [], 0.5
    expected = 6 / np.pi * np.arcsin(correlation / 2)  # Spearman's of the bivariate normal distribution
    for _ in range(200):
        x, noise = rng.standard_normal((2, len(NAMES)))
        y = correlation * x + np.sqrt(1 - correlation**2) * noise
        half = slice(0, len(NAMES) // 2)
        found = rank_agreement([RankedList(NAMES, x, y), RankedList(NAMES[half], x[half], y[half])], resamples=300)
        inside += found.low <= expected <= found.high
        wide.append(found.high - found.low)
    assert 0.86 <= inside / 200 <= 0.99
    assert np.mean(wide) < 1.4, "an interval that contains everything says nothing"


def test_uncertain_answers_widen_the_interval() -> None:
    one = ranked([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8])
    noise = np.random.default_rng(0).normal(0, 3, (500, 8))
    noisy = RankedList(one.methods, one.published, one.here, one.here + noise)
    exact, uncertain = (rank_agreement([which], resamples=500) for which in (one, noisy))
    assert exact.value == uncertain.value == pytest.approx(1) and exact.low == pytest.approx(1)
    assert uncertain.low < 0.6


def test_a_method_of_several_lists_is_drawn_for_all_of_them() -> None:
    """Copies of a list do not make the interval narrower, since they say nothing new."""
    x, y = np.random.default_rng(1).standard_normal((2, 10)).tolist()
    once, thrice = (rank_agreement([ranked(x, y)] * copies, resamples=500) for copies in (1, 3))
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))


def test_published_lists_are_compared_with_each_other_on_their_common_methods() -> None:
    one = ranked([3, 2, 1], [0, 0, 0], "abc")
    same, reverse = ranked([30, 20, 10, 99], [0, 0, 0, 0], "abcd"), ranked([1, 2, 3], [0, 0, 0], "abc")
    assert mutual_agreement([[one, same]]) == (pytest.approx(1), 1)
    assert mutual_agreement([[one, same], [one, reverse]]) == (pytest.approx(0), 2)
    value, pairs = mutual_agreement([[one], [same], [one, ranked([1, 2, 3], [0, 0, 0], "axy")]])
    assert np.isnan(value) and pairs == 0
