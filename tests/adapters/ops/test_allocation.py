"""Allocations of a budget: totals, caps, largest remainders and ties."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framefold.adapters.ops.allocation import even_counts, proportional_parts, rounded_shares, share
from framefold.errors import ContractError


def largest_remainder(total: int, weights: list[int], caps: list[int]) -> list[int]:
    """The rule with fractions: fill parts whose quota reaches their cap, then round the quotas of the others."""
    out, free, left = [0] * len(caps), set(range(len(caps))), total
    while left:
        w = {i: weights[i] for i in free} if any(weights[i] for i in free) else dict.fromkeys(free, 1)
        quota = {i: Fraction(w[i] * left, sum(w.values())) for i in free}
        full = {i for i in free if quota[i] >= caps[i]}
        for i in full:
            out[i] = caps[i]
        left -= sum(caps[i] for i in full)
        free -= full
        if not full:
            for i in free:
                out[i] = int(quota[i])
            rest = left - sum(out[i] for i in free)
            for i in sorted(free, key=lambda i: (out[i] - quota[i], i))[:rest]:
                out[i] += 1
            return out
    return out


@given(st.data())
def test_share_is_the_largest_remainder_rule(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 8))
    caps = data.draw(st.lists(st.integers(0, 9), min_size=m, max_size=m))
    weights = data.draw(st.lists(st.integers(0, 5), min_size=m, max_size=m))
    total = data.draw(st.integers(0, sum(caps)))
    found = share(total, torch.tensor(weights), torch.tensor(caps)).tolist()
    assert found == largest_remainder(total, weights, caps)
    wide = share(total, torch.tensor(weights).double(), torch.tensor(caps))
    assert int(wide.sum()) == total and bool((wide <= torch.tensor(caps)).all())


def test_share_gives_ties_to_the_lower_index_and_refuses_too_much() -> None:
    assert share(5, torch.ones(3), torch.tensor([9, 9, 9])).tolist() == [2, 2, 1]
    assert share(4, torch.tensor([0.0, 1.0]), torch.tensor([9, 1])).tolist() == [3, 1]
    with pytest.raises(ContractError):
        share(3, torch.ones(2), torch.tensor([1, 1]))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=9).filter(sum), st.integers(0, 40))
def test_proportional_parts_are_differences_of_floors(sizes: list[int], k: int) -> None:
    found = proportional_parts(torch.tensor(sizes), k).tolist()
    ends = [sum(sizes[: i + 1]) * k // sum(sizes) for i in range(len(sizes))]
    assert found == [end - start for start, end in zip([0, *ends], ends, strict=False)]
    assert sum(found) == k and (k > sum(sizes) or all(part <= size for part, size in zip(found, sizes, strict=True)))


def test_even_counts_spread_the_remainder() -> None:
    assert even_counts(11, 4).tolist() == [3, 2, 3, 3]
    assert even_counts(2, 4).tolist() == [0, 1, 0, 1]
    assert even_counts(0, 3).tolist() == [0, 0, 0]


def test_rounded_shares_are_those_of_a_common_ratio() -> None:
    sizes, head_start = torch.tensor([7, 3, 12, 1, 8]), torch.tensor([0.5, 1.0, 1.0, 0.5, 1.0])
    for ratio in (0.06, 0.2, 0.41, 0.77, 0.93):
        near, up = (sizes * ratio).round(), (sizes * ratio).ceil()
        counts = torch.where(head_start == 1, up, near).long()
        assert torch.equal(rounded_shares(int(counts.sum()), sizes, head_start), counts)
    for total in range(1, 32):
        counts = rounded_shares(total, sizes, head_start)
        assert int(counts.sum()) == total and (counts <= sizes).all()
    assert rounded_shares(3, torch.full((9,), 4), torch.ones(9)).tolist() == [0, 1, 0, 0, 1, 0, 0, 1, 0]
    with pytest.raises(ContractError, match="31 tokens"):
        rounded_shares(32, sizes, head_start)
