"""The budget of a compressor: a retention ratio or a number of tokens per video."""

from __future__ import annotations

from numbers import Integral, Real

from typing_extensions import TypeAliasType

from framefold.errors import BudgetError

Budget = TypeAliasType("Budget", int | float)
"""A number of tokens per video (int) or a retention ratio (float).

A named alias, because ``int | float | None`` does not keep its order: jsonargparse rewrites it as
``Optional[int | float]``, and typing, which caches unions regardless of order, may return an earlier
``Optional[float | int]``. On the command line 64 tokens would then be parsed as a ratio of 64.0.
"""

AUTO = "auto"  # the compressor predicts its budget


def check_budget(budget: Budget) -> Budget:
    """Validate a budget: a retention ratio (float in (0, 1]) or a number of tokens per video (int >= 1).

    Returns:
        The budget as a Python float or int. NumPy numbers are converted, because settings are saved as JSON.

    Raises:
        BudgetError: anything else, including booleans and NaN.
    """
    if isinstance(budget, bool) or not isinstance(budget, Real):
        raise BudgetError(f"budget must be a ratio (float) or a number of tokens (int), got {budget!r}")
    if isinstance(budget, Integral):
        if budget < 1:
            raise BudgetError(f"a budget in tokens must be at least 1, got {budget}")
        return int(budget)
    ratio = float(budget)
    if not 0.0 < ratio <= 1.0:
        raise BudgetError(f"a retention ratio must be in (0, 1], got {ratio} (use an int for a number of tokens)")
    return ratio


def budget_tokens(budget: Budget, n: int) -> int:
    """Return the number of tokens to keep of n: min(n, max(1, round(ratio * n))) or min(n, tokens)."""
    if isinstance(budget, float):
        return min(n, max(1, round(budget * n)))
    return min(n, budget)
