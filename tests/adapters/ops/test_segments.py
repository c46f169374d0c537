"""Sums, means and medians over groups, against loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops.segments import segment_mean, segment_median, segment_sum, unmerge
from tests.support.cases import case

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def random_groups(n: int, k: int, seed: int, drop: bool) -> torch.Tensor:
    """(n,) groups, each of 0..k-1 at least once, with some -1 where asked."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(-1 if drop else 0, k, (n,), generator=generator)
    groups[torch.randperm(n, generator=generator)[:k]] = torch.arange(k)
    return groups


@quick
@given(n=st.integers(1, 30), seed=st.integers(0, 99), drop=st.booleans(), data=st.data())
def test_segments_against_loops(n: int, seed: int, drop: bool, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    groups = random_groups(n, k, seed, drop)
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = torch.randint(1, 5, (n,), generator=torch.Generator().manual_seed(seed))
    sums, means, medians = segment_sum(x, groups, k), segment_mean(x, size, groups, k), []
    for group in range(k):
        rows = [i for i in range(n) if groups[i] == group]
        torch.testing.assert_close(sums[group], sum(x[i] for i in rows))
        torch.testing.assert_close(means[group], sum(x[i] * size[i] for i in rows) / sum(size[i] for i in rows))
        medians.append(rows[(len(rows) - 1) // 2])
    assert segment_median(groups, k).tolist() == medians


def test_segment_mean_accumulates_in_fp32() -> None:
    for dtype in [torch.float16, torch.bfloat16]:
        with case(dtype):
            x = torch.ones(5000, 1, dtype=dtype)
            mean = segment_mean(x, torch.ones(5000, dtype=torch.long), torch.zeros(5000, dtype=torch.long), 1)
            assert (
                mean.dtype == dtype and float(mean) == 1.0
            )  # a running sum in half precision stops growing at 256 or 2048


def test_unmerge_copies_rows_back() -> None:
    rows = torch.tensor([[1.0], [2.0]])
    assert unmerge(rows, torch.tensor([1, -1, 0, 1])).tolist() == [[2.0], [0.0], [1.0], [2.0]]
