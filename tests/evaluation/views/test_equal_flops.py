"""Budgets of methods at equal operations, by hand."""

from __future__ import annotations

from framefold.evaluation.views.equal_flops import limits, within

LIMITS = {"50 %": 100.0, "25 %": 60.0, "10 %": 30.0}


def test_the_limit_of_a_budget_is_that_of_its_results() -> None:
    assert limits({"50 %": [100.0, None, 100.0], "25 %": [None]}) == {"50 %": 100.0}


def test_a_cheap_method_keeps_more_tokens_and_an_expensive_one_fewer() -> None:
    cheap = {"50 %": 60.0, "25 %": 30.0, "10 %": 10.0}
    assert within(cheap, LIMITS) == {"50 %": "50 %", "25 %": "50 %", "10 %": "25 %"}
    dear = {"50 %": 160.0, "25 %": 100.0, "10 %": 61.0}
    assert within(dear, LIMITS) == {"50 %": "25 %"}, "61 exceeds 60 by more than one percent"
    assert within({"50 %": None}, LIMITS) == {}
