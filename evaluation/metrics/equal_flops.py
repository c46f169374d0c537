"""Budgets at which a method has at most the operations of another number of tokens in every layer.

A method that reduces tokens inside the language model has more tokens in the first layers than in the last ones. With
the same mean over the layers, its prefill costs more than with equally many tokens in every layer, because attention
is quadratic. These functions find the largest budget at which it does not cost more.

Dimensions: N visual tokens of a video, n layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.errors import BudgetError

from .flops import PrefillFormula


@dataclass(frozen=True)
class PromptSize:
    """Size of a prompt with one video.

    Attributes:
        tokens: N.
        per_frame: visual tokens of a frame.
        text: all other tokens, including those that the host adds to the visual ones.
    """

    tokens: int
    per_frame: int
    text: int


@dataclass(frozen=True)
class EqualBudget:
    """Budget that a method gets instead of a nominal one.

    Attributes:
        budget: retention ratio or tokens per video, whichever the nominal one was.
        flops: operations of the method at this budget, mean over the prompts.
        allowed: operations with the nominal number of tokens in every layer, mean over the prompts.
    """

    budget: Budget
    flops: float
    allowed: float


def uniform_flops(formula: PrefillFormula, sizes: Iterable[PromptSize], budget: Budget) -> float:
    """Return the mean operations of prompts with the budget's number of visual tokens in every layer."""
    return _mean([formula(size.text + budget_tokens(budget, size.tokens)) for size in sizes])


def mean_flops(
    formula: PrefillFormula, sizes: Iterable[PromptSize], tokens_by_layer: Callable[[PromptSize], Sequence[int]]
) -> float | None:
    """Return the mean operations of prompts whose number of visual tokens differs by layer.

    Args:
        formula: operations of the language model.
        sizes: sizes of the prompts.
        tokens_by_layer: returns the n numbers of visual tokens of a prompt; raises BudgetError if there are none.

    Returns:
        None if ``tokens_by_layer`` raised.
    """
    found: dict[PromptSize, float] = {}
    sizes = list(sizes)
    try:
        for size in set(sizes):
            found[size] = formula([size.text + tokens for tokens in tokens_by_layer(size)])
    except BudgetError:
        return None
    return _mean([found[size] for size in sizes])


def equal_budget(
    flops_at: Callable[[Budget], float | None],
    formula: PrefillFormula,
    sizes: Sequence[PromptSize],
    budget: Budget,
    exhaustive: bool = True,
) -> EqualBudget:
    """Return the largest budget at which a method does not exceed the operations of equally many tokens in every layer.

    Ratios are compared in steps of one token of the longest video.

    Args:
        flops_at: mean operations of the method at a budget; None if the budget is not possible.
        formula: operations of the language model.
        sizes: sizes of the prompts that the means are over.
        budget: nominal budget.
        exhaustive: try every budget from the largest. Otherwise halve the interval, which takes few calls and finds the
            largest one if the operations grow with the budget.

    Raises:
        BudgetError: the method exceeds the operations even at its smallest possible budget.
    """
    allowed, tries = uniform_flops(formula, sizes, budget), _candidates(budget, max(size.tokens for size in sizes))
    costs: dict[Budget, float | None] = {}

    def fits(candidate: Budget) -> bool:
        costs[candidate] = flops_at(candidate)
        return costs[candidate] is None or costs[candidate] <= allowed  # type: ignore[operator]

    if exhaustive:
        largest = next((one for one in reversed(tries) if fits(one) and costs[one] is not None), None)
    else:
        largest = _halve(tries, fits)
    if largest is not None and (cost := costs[largest]) is not None:
        return EqualBudget(largest, cost, allowed)
    cheapest = min((cost for cost in costs.values() if cost is not None), default=math.inf)
    smallest = next((one for one in tries if uniform_flops(formula, sizes, one) >= cheapest), None)
    if isinstance(smallest, float):
        smallest = math.ceil(10_000 * smallest) / 10_000
    advice = "" if smallest is None else f"; the smallest budget with equal FLOPs is {smallest:g}"
    raise BudgetError(
        f"even with the fewest possible tokens, the prefill has more FLOPs than at the budget {budget:g}{advice}",
        smallest,
    )


def _candidates(budget: Budget, tokens: int) -> list[Budget]:
    """Return the budgets of 1 to N tokens, as ratios if the nominal budget is one."""
    counts = range(1, tokens + 1)
    return [count / tokens for count in counts] if isinstance(budget, float) else list(counts)


def _halve(tries: list[Budget], fits: Callable[[Budget], bool]) -> Budget | None:
    """Return a budget that fits while the next larger one does not; None if the smallest does not fit."""
    low, high = -1, len(tries)  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(tries[middle]) else (low, middle)
    return tries[low] if low >= 0 else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
