"""The largest budget with at most given operations, against a search by hand over every budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from framefold.adapters.base.in_llm import InLLM
from framefold.adapters.base.prune_after_layer import PruneAfterLayer
from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.adapters.in_llm.pyramid_drop import AfterEachPart
from framefold.errors import BudgetError
from framefold.evaluation.metrics.equal_flops import PromptSize, equal_budget, mean_flops, uniform_flops
from framefold.evaluation.metrics.flops import PrefillFormula

STAGES = (
    PruneAfterLayer(1),
    PruneAfterLayer(13),
    PruneAfterLayer(19, 1.25),
    PruneAfterLayer(1, 1.6),
    AfterEachPart(2),
    AfterEachPart(4),
)
SIZES = ([(9, 4)], [(16, 0), (16, 0), (8, 40)])  # (visual tokens, text tokens) of each prompt


def cost(formula: PrefillFormula, lengths: Sequence[int]) -> int:
    """Operations by their definition: weights, scores, weighted values of every layer, and the logits of one token."""
    total = formula.logits
    for length, weights in zip(lengths, formula.weights, strict=True):
        total += length * weights + length * length * formula.heads + length * length * formula.heads
    return 2 * total


def layers_of(stage: InLLM, k: int, n: int, layers: int) -> list[int] | None:
    """Tokens of each layer, None if a mean of k of n is not possible."""
    entered = stage.entering(k, n)
    try:
        counts = [entered, *stage.counts(entered, k, layers)]
    except BudgetError:
        return None
    starts = [0, *(act + 1 for act in stage.acts(layers))]
    return [counts[sum(start <= layer for start in starts) - 1] for layer in range(layers)]


def by_hand(
    stage: InLLM, formula: PrefillFormula, prompts: list[tuple[int, int]], budget: Budget
) -> tuple[Budget | None, float]:
    """Return the largest budget, None if there is none, and the operations of the cheapest possible one."""
    layers, longest = len(formula.weights), max(n for n, _ in prompts)
    allowed = sum(cost(formula, [budget_tokens(budget, n) + text] * layers) for n, text in prompts)
    best: Budget | None = None
    cheapest = math.inf
    for count in range(1, longest + 1):
        candidate = count / longest if isinstance(budget, float) else count
        inside = [layers_of(stage, budget_tokens(candidate, n), n, layers) for n, _ in prompts]
        if any(one is None for one in inside):
            continue
        pairs = zip(inside, prompts, strict=True)
        used = sum(cost(formula, [tokens + text for tokens in one]) for one, (_, text) in pairs if one is not None)
        cheapest = min(cheapest, used / len(prompts))
        best = candidate if used <= allowed else best
    return best, cheapest


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: f"{type(stage).__name__}{vars(stage).get('layer', '')}")
@pytest.mark.parametrize("weights", [(7,), (40, 3)], ids=["equal layers", "the first layers have more weights"])
def test_the_budget_is_the_largest_one_that_costs_no_more(stage: InLLM, weights: tuple[int, ...]) -> None:
    found = refused = below = 0
    for layers, prompts, heads in itertools.product((4, 6, 28), SIZES, (1, 10)):
        formula = PrefillFormula(
            (weights * layers)[:layers] if len(weights) == 1 else (40, *[3] * (layers - 1)), heads, 5
        )
        longest = max(n for n, _ in prompts)
        sizes = [PromptSize(n, 1, text) for n, text in prompts]

        def flops_at(budget: Budget) -> float | None:
            def inside(size: PromptSize) -> list[int]:
                lengths = layers_of(stage, budget_tokens(budget, size.tokens), size.tokens, layers)  # noqa: B023
                if lengths is None:
                    raise BudgetError("not possible")
                return lengths

            return mean_flops(formula, sizes, inside)  # noqa: B023

        for count, kind in itertools.product(range(1, longest + 1), (int, float)):
            budget = count if kind is int else count / longest
            expected, cheapest = by_hand(stage, formula, prompts, budget)
            if expected is None:
                with pytest.raises(BudgetError, match="even with the fewest possible tokens") as error:
                    equal_budget(flops_at, formula, sizes, budget)
                smallest = error.value.smallest
                if smallest is not None:
                    assert type(smallest) is kind and uniform_flops(formula, sizes, smallest) >= cheapest
                    assert by_hand(stage, formula, prompts, smallest)[0] is not None
                refused += 1
                continue
            equal = equal_budget(flops_at, formula, sizes, budget)
            assert equal.budget == expected and type(equal.budget) is kind
            assert equal.flops == flops_at(expected) <= equal.allowed == uniform_flops(formula, sizes, budget)
            below += equal.budget < budget
            found += 1
    assert found > 100 and below > 20 and (refused or stage.entering(1, 9) < 9)


def test_halving_finds_the_same_where_operations_grow_with_the_budget() -> None:
    formula, sizes = PrefillFormula((7, 7, 7), 2, 5), [PromptSize(50, 1, 3)]
    calls: list[Budget] = []

    def flops_at(budget: Budget) -> float | None:
        calls.append(budget)
        k = budget_tokens(budget, 50)
        return None if k < 5 else formula([2 * k + 3, k + 3, k // 2 + 3])

    for budget in (0.5, 25, 10, 0.98):
        calls.clear()
        quick = equal_budget(flops_at, formula, sizes, budget, exhaustive=False)
        assert len(calls) <= 6 and quick == equal_budget(flops_at, formula, sizes, budget)
    with pytest.raises(BudgetError) as error:
        equal_budget(flops_at, formula, sizes, 3, exhaustive=False)
    smallest = error.value.smallest
    assert smallest is not None and equal_budget(flops_at, formula, sizes, smallest, exhaustive=False)
    with pytest.raises(BudgetError):
        equal_budget(flops_at, formula, sizes, smallest - 1)
