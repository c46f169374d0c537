"""Selection and ranking, against sorting in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops.selection import exact_topk, rank_in_frame, rank_in_group, select_by_stage, top_and_even
from framefold.errors import ContractError

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@quick
@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=40), k=st.integers(1, 40))
def test_exact_topk_against_sorting_pairs(values: list[int], k: int) -> None:
    k = min(k, len(values))
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert exact_topk(torch.tensor(values, dtype=torch.float32), k).tolist() == sorted(best)


def test_top_and_even_adds_evenly_spaced_rows_of_those_that_are_not_among_the_best() -> None:
    scores = torch.tensor([0.0, 5, 0, 0, 9, 0, 0, 0, 7, 0, 0, 0])
    rows, by_score = top_and_even(scores, 3, 6)
    others = [0, 2, 3, 5, 6, 7, 9, 10, 11]
    assert rows.tolist() == sorted([1, 4, 8, others[1], others[4], others[7]])
    assert rows[by_score].tolist() == [1, 4, 8]
    for top, k in ((0, 3), (4, 4), (5, 12), (12, 12)):
        rows, by_score = top_and_even(scores, top, k)
        assert len(set(rows.tolist())) == k and int(by_score.sum()) == top, (top, k)
        assert rows[by_score].tolist() == exact_topk(scores, top).tolist(), (top, k)


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
