"""ops against slow references that anybody can check by eye."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.base.merger import merge
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops import segments as ops
from framefold.errors import BudgetError, ContractError

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def random_groups(n: int, k: int, seed: int, drop: bool) -> torch.Tensor:
    """(n,) groups, each of 0..k-1 at least once, with some -1 where asked."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1 if drop else 0, k, (n,), generator=generator)
    groups[torch.randperm(n, generator=generator)[:k]] = torch.arange(k)
    return groups


@pytest.mark.parametrize(
    "budget, n, expected",
    [(0.5, 10, 5), (0.25, 10, 2), (0.35, 10, 4), (0.001, 10, 1), (1.0, 10, 10), (3, 10, 3), (99, 10, 10), (1, 1, 1)],
)
def test_budget_tokens(budget: float | int, n: int, expected: int) -> None:
    assert ops.budget_tokens(budget, n) == expected


@quick
@given(ratio=st.floats(1e-6, 1.0), n=st.integers(1, 100_000))
def test_budget_tokens_is_the_stated_formula(ratio: float, n: int) -> None:
    assert ops.budget_tokens(ratio, n) == min(n, max(1, round(ratio * n)))


@pytest.mark.parametrize("budget", [0, -3, 0.0, -0.1, 1.5, math.nan, math.inf, True, False, "1", None, 1j])
def test_check_budget_refuses(budget) -> None:
    with pytest.raises(BudgetError):
        ops.check_budget(budget)


@quick
@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=40), k=st.integers(1, 40))
def test_exact_topk_against_sorting_pairs(values: list[int], k: int) -> None:
    k = min(k, len(values))
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert ops.exact_topk(torch.tensor(values, dtype=torch.float32), k).tolist() == sorted(best)


def test_exact_topk_refuses_nan() -> None:
    with pytest.raises(ContractError, match="NaN"):
        ops.exact_topk(torch.tensor([1.0, math.nan]), 1)


@quick
@given(n=st.integers(1, 300), data=st.data())
def test_spread_and_split_runs(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    runs = ops.split_runs(n, k).tolist()
    assert runs == sorted(runs) and set(runs) == set(range(k))
    lengths = [runs.count(i) for i in range(k)]
    assert max(lengths) - min(lengths) <= 1
    places = ops.spread(n, k).tolist()
    assert places == [math.floor((i + 0.5) * n / k) for i in range(k)]
    assert all(a < b for a, b in zip(places, places[1:], strict=False)) and places[0] >= 0 and places[-1] < n


@quick
@given(height=st.integers(1, 9), width=st.integers(1, 9), data=st.data())
def test_split_cells_are_rectangles(height: int, width: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, height * width))
    cells = ops.split_cells(height, width, k).reshape(height, width)
    assert set(cells.unique().tolist()) == set(range(k))
    areas = []
    for group in range(k):
        y, x = (cells == group).nonzero(as_tuple=True)
        areas.append(len(y))
        assert areas[-1] == (y.max() - y.min() + 1) * (x.max() - x.min() + 1)
    anchors = ops.segment_median(cells.reshape(-1), k)
    assert bool((anchors[1:] > anchors[:-1]).all())  # fila relies on it


@quick
@given(n=st.integers(1, 30), seed=st.integers(0, 99), drop=st.booleans(), data=st.data())
def test_segments_against_loops(n: int, seed: int, drop: bool, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    groups = random_groups(n, k, seed, drop)
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = torch.randint(1, 5, (n,), generator=torch.Generator().manual_seed(seed))
    sums, means, medians = ops.segment_sum(x, groups, k), ops.segment_mean(x, size, groups, k), []
    for group in range(k):
        rows = [i for i in range(n) if groups[i] == group]
        torch.testing.assert_close(sums[group], sum(x[i] for i in rows))
        torch.testing.assert_close(means[group], sum(x[i] * size[i] for i in rows) / sum(size[i] for i in rows))
        medians.append(rows[(len(rows) - 1) // 2])
    assert ops.segment_median(groups, k).tolist() == medians


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_segment_mean_adds_up_in_fp32(dtype: torch.dtype) -> None:
    x = torch.ones(5000, 1, dtype=dtype)
    mean = ops.segment_mean(x, torch.ones(5000, dtype=torch.long), torch.zeros(5000, dtype=torch.long), 1)
    assert mean.dtype == dtype and float(mean) == 1.0  # a running sum in half precision stops growing at 256 or 2048


def test_unmerge_copies_rows_back() -> None:
    rows = torch.tensor([[1.0], [2.0]])
    assert ops.unmerge(rows, torch.tensor([1, -1, 0, 1])).tolist() == [[2.0], [0.0], [1.0], [2.0]]


@quick
@given(seed=st.integers(0, 200), k=st.integers(1, 12), drop=st.booleans())
def test_merge_against_loops(seed: int, k: int, drop: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    video = VideoTokens.from_grid(torch.randn(4, 2, 3, 5, generator=generator))
    groups = random_groups(24, k, seed, drop)
    out = merge(video, groups, k)
    for row in range(k):
        members = [i for i in range(24) if out.assign[i] == row]
        assert len({int(groups[i]) for i in members}) == 1  # one of the given groups, whole
        assert len(members) == int((groups == groups[members[0]]).sum()) == out.size[row]
        assert out.index[row] == members[(len(members) - 1) // 2]
        torch.testing.assert_close(out.features[row], video.features[members].mean(0))
    assert torch.equal(out.assign < 0, groups < 0) and bool((out.index[1:] > out.index[:-1]).all())


def test_keep_of_kept_tokens_composes() -> None:
    video = VideoTokens.from_grid(torch.arange(24.0).reshape(4, 2, 3, 1))
    once = video.keep(torch.tensor([2, 5, 11, 20])).keep(torch.tensor([1, 3]))
    assert once.index.tolist() == [5, 20] and once.features[:, 0].tolist() == [5.0, 20.0]
    assert (once.assign >= 0).nonzero()[:, 0].tolist() == [5, 20] and once.assign[[5, 20]].tolist() == [0, 1]
