"""Bipartite matching: parity, order, ties, and rounds that leave an exact number of rows."""

from __future__ import annotations

import pytest
import torch

from framefold.adapters.ops import bipartite
from framefold.adapters.ops.bipartite import bipartite_match, merge_down
from tests.support.videos import noise


@pytest.mark.parametrize(("n", "protected"), [(1, 0), (2, 0), (9, 0), (9, 1), (10, 2), (10, 3), (4, 3), (4, 4)])
def test_even_rows_are_paired_with_the_most_similar_odd_row(n: int, protected: int) -> None:
    x = noise(2, n, 5, seed=n)
    even = [row for row in range(protected, n) if row % 2 == 0]
    odd = [row for row in range(protected, n) if row % 2]
    source, target = bipartite_match(x, protected)
    assert source.shape == target.shape == (2, len(even) if odd else 0)
    for i in range(2):
        cosine = torch.cosine_similarity(x[i, :, None], x[i, None], dim=-1)
        best = {a: max(odd, key=lambda b, a=a: float(cosine[a, b])) for a in even} if odd else {}
        assert dict(zip(source[i].tolist(), target[i].tolist(), strict=True)) == best
        assert source[i].tolist() == sorted(best, key=lambda a: -float(cosine[a, best[a]]))


def test_ties_go_to_the_lower_row_and_zero_rows_are_like_nothing() -> None:
    x = torch.zeros(1, 7, 3)
    x[0, [0, 1, 3, 4, 5, 6]] = torch.tensor([1.0, 2.0, 3.0])  # row 2 is zero
    source, target = bipartite_match(x)
    assert source.tolist() == [[0, 4, 6, 2]] and target.tolist() == [[1, 1, 1, 1]]


def test_blocks_and_autocast_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(2, 41, 6)
    whole = bipartite_match(x)
    monkeypatch.setattr(bipartite, "BLOCK", 100)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(whole, bipartite_match(x), strict=True))


@pytest.mark.parametrize("k", [1, 2, 5, 11, 22, 23])
def test_rounds_leave_exactly_k_rows_whose_sums_are_those_of_their_members(k: int) -> None:
    for x in (noise(23, 4), torch.zeros(23, 4), torch.ones(23, 4)):
        sums, groups = merge_down(x, k)
        assert groups.unique().tolist() == list(range(k))
        torch.testing.assert_close(sums, torch.zeros(k, 4).index_add_(0, groups, x))


def test_duplicates_in_alternation_are_merged_first() -> None:
    x = noise(8, 16).repeat_interleave(2, 0)
    _, groups = merge_down(x, 8)
    assert groups.tolist() == torch.arange(8).repeat_interleave(2).tolist()
