"""Selection and ranking, against sorting in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops.selection import exact_topk, rank_in_frame, rank_in_group, select_by_stage
from framefold.errors import ContractError

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@quick
@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=40), k=st.integers(1, 40))
def test_exact_topk_against_sorting_pairs(values: list[int], k: int) -> None:
    k = min(k, len(values))
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert exact_topk(torch.tensor(values, dtype=torch.float32), k).tolist() == sorted(best)


def test_exact_topk_refuses_nan() -> None:
    with pytest.raises(ContractError, match="NaN"):
        exact_topk(torch.tensor([1.0, math.nan]), 1)


def test_select_by_stage_then_cost_then_row() -> None:
    stage, cost = torch.tensor([[1, 0, 1], [0, 2, 1]]), torch.tensor([[5.0, 9.0, 3.0], [9.0, 0.0, 3.0]])
    assert [select_by_stage(stage, cost, k).tolist() for k in (1, 2, 3, 4, 5)] == [
        [1], [1, 3], [1, 2, 3], [1, 2, 3, 5], [0, 1, 2, 3, 5],
    ]  # fmt: skip


def test_rank_in_frame() -> None:
    assert rank_in_frame(torch.tensor([[2.0, 1.0, 2.0], [0.0, 0.0, -1.0]])).tolist() == [[1, 0, 2], [1, 2, 0]]


def test_rank_in_group() -> None:
    values, groups = torch.tensor([1.0, 5.0, 3.0, 5.0, 2.0]), torch.tensor([1, 0, 1, 0, 1])
    assert rank_in_group(values, groups).tolist() == [2, 0, 0, 1, 1]
