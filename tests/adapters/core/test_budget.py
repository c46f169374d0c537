"""Budgets: validation and the number of tokens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.core.budget import budget_tokens, check_budget
from framefold.errors import BudgetError
from tests.support.cases import case

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def test_budget_tokens() -> None:
    cases = [
        (0.5, 10, 5),
        (0.25, 10, 2),
        (0.35, 10, 4),
        (0.001, 10, 1),
        (1.0, 10, 10),
        (3, 10, 3),
        (99, 10, 10),
        (1, 1, 1),
    ]
    for budget, n, expected in cases:
        assert budget_tokens(budget, n) == expected, (budget, n)


@quick
@given(ratio=st.floats(1e-6, 1.0), n=st.integers(1, 100_000))
def test_budget_tokens_is_the_stated_formula(ratio: float, n: int) -> None:
    assert budget_tokens(ratio, n) == min(n, max(1, round(ratio * n)))


def test_invalid_budgets_are_refused() -> None:
    for budget in (0, -3, 0.0, -0.1, 1.5, math.nan, math.inf, True, False, "1", None, 1j):
        with case(budget), pytest.raises(BudgetError):
            check_budget(budget)
