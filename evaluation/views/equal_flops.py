"""Methods compared at equal operations of everything: tower, compressor, prefill and answer.

The limit of a budget is what its number of tokens costs in every layer without a compressor, with all frames encoded.
Each method is read at the largest of its own budgets whose operations do not exceed the limit, whatever its accuracy
there. Methods that encode fewer or smaller frames, or need no compressor, may thus keep more tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TOLERANCE = 1.01  # of the limit, for the operations of a cheap compressor


def limits(budget_flops: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Return the limit of each budget.

    Args:
        budget_flops: label of the budget -> limits as stored in results, which agree; None where it is unknown.
    """
    known = {budget: [one for one in found if one is not None] for budget, found in budget_flops.items()}
    return {budget: max(found) for budget, found in known.items() if found}


def within(total_flops: Mapping[str, float | None], limit: Mapping[str, float]) -> dict[str, str]:
    """Return at which of its own budgets a method is read for each budget.

    Args:
        total_flops: label of the budget -> operations of the method; None where they are unknown.
        limit: label of the budget -> limit.

    Returns:
        Label of the budget -> label of its own budget; budgets at which it cannot stay below the limit are left out.
    """
    known = {budget: flops for budget, flops in total_flops.items() if flops is not None}
    chosen = {}
    for budget, most in limit.items():
        if fits := [one for one, flops in known.items() if flops <= TOLERANCE * most]:
            chosen[budget] = max(fits, key=lambda one: known[one])
    return chosen
