"""Max-min selection and nearest other points, against slow references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops import max_min as module
from framefold.adapters.ops.max_min import Metric, PointSet, farthest_points, max_min, most_isolated, nearest_other
from tests.support.videos import DTYPES, noise

METRICS: list[Metric] = ["cosine", "euclid"]


def distances(points: torch.Tensor, metric: Metric) -> list[list[float]]:
    points = points.double()
    if metric == "cosine":
        points = torch.nn.functional.normalize(points, dim=-1)
        return ((points[:, None] - points).square().sum(-1) / 2).tolist()
    return (points[:, None] - points).norm(dim=-1).tolist()


def slow_max_min(table: list[list[float]], count: int, first: int, weight: list[float]) -> list[int]:
    picks = [first]
    while len(picks) < count:
        values = [
            -1.0 if row in picks else round(min(table[row][pick] for pick in picks) * weight[row], 9)
            for row in range(len(table))
        ]
        picks.append(values.index(max(values)))
    return picks


@pytest.mark.parametrize("block", [3, 256])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data(), metric=st.sampled_from(METRICS), weighted=st.booleans(), seed=st.integers(0, 999))
def test_max_min_against_the_reference(
    block: int, data: st.DataObject, metric: Metric, weighted: bool, seed: int
) -> None:
    n = data.draw(st.integers(1, 30))
    points = noise(n, 5, seed=seed)
    copies = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=n))
    for source, target in copies:
        points[target] = points[source]
    weight = torch.rand(n, generator=torch.Generator().manual_seed(seed)) if weighted else torch.ones(n)
    weight[: n // 5] = 0.0 if weighted else 1.0
    count, first = data.draw(st.integers(1, n)), data.draw(st.integers(0, n - 1))
    before, module.BLOCK = module.BLOCK, block
    try:
        picks = max_min(points[None], [count], [first], metric, weight[None] if weighted else None)
    finally:
        module.BLOCK = before
    assert picks.tolist() == [slow_max_min(distances(points, metric), count, first, weight.tolist())]


def test_many_points_in_clusters_are_chosen_as_without_bounds() -> None:
    """More points than a block, whose bounds are updated at different times."""
    points = noise(20, 32).repeat(60, 1) + 0.1 * noise(1200, 32, seed=1)
    for metric in METRICS:
        table, expected = torch.tensor(distances(points, metric)), [7]
        while len(expected) < 150:
            expected.append(int(table[expected].amin(0).index_fill(0, torch.tensor(expected), -1).argmax()))
        assert max_min(points[None], [150], [7], metric)[0].tolist() == expected


def test_sets_do_not_affect_each_other_and_short_ones_are_padded() -> None:
    points = noise(3, 40, 6)
    points[1] *= 1e-25
    points[2] *= 1e25
    picks = max_min(points, torch.tensor([5, 0, 9]), torch.tensor([0, 1, 2]), "euclid")
    assert picks.shape == (3, 9) and picks[1].tolist() == [-1] * 9 and picks[0, 5:].tolist() == [-1] * 4
    for b, count in ((0, 5), (2, 9)):
        assert picks[b, :count].tolist() == max_min(points[b : b + 1], [count], [b], "euclid")[0].tolist()
    scaled = max_min(points[:1] * 2.0**-90, [5], [0], "euclid")
    assert picks[0, :5].tolist() == scaled[0].tolist()


def test_copies_come_last_in_order_of_their_rows() -> None:
    points = noise(5, 300).repeat(50, 1)
    for metric in METRICS:
        picks = max_min(points[None], [100], [3], metric)[0].tolist()
        assert sorted(picks[:5]) == [0, 1, 2, 3, 4] and picks[5:] == list(range(5, 100))


def test_equal_distances_go_to_the_lower_row() -> None:
    picks = max_min(torch.eye(512)[None], [512], [4], "euclid")[0].tolist()
    assert picks == [4, *(row for row in range(512) if row != 4)]


def test_dtype_and_autocast_do_not_change_the_choice() -> None:
    points = noise(1, 400, 16).half()
    expected = max_min(points, [60], [0], "cosine")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(max_min(points.float(), [60], [0], "cosine"), expected)
    for dtype in DTYPES:
        assert len(set(max_min(points.to(dtype), [60], [0], "cosine")[0].tolist())) == 60


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    n=st.integers(1, 25),
    metric=st.sampled_from(METRICS),
    copied=st.booleans(),
    seed=st.integers(0, 999),
    period=st.sampled_from([1, 3, 50]),
)
def test_nearest_other_and_most_isolated_against_the_reference(
    n: int, metric: Metric, copied: bool, seed: int, period: int
) -> None:
    points = noise(n, 4, seed=seed)
    if copied and n > 2:
        points[n // 2] = points[0]
    table = distances(points, metric)
    expected = [min((table[i][j] for j in range(n) if j != i), default=torch.inf) for i in range(n)]
    before, module.BLOCK = module.BLOCK, 4
    try:
        nearest = nearest_other(points[None], metric)
        isolated = most_isolated(PointSet.prepare(points, metric), period)
    finally:
        module.BLOCK = before
    torch.testing.assert_close(nearest[0].double(), torch.tensor(expected).double(), atol=1e-5, rtol=1e-4)
    assert nearest[0, isolated] >= nearest.max() - 1e-5
    if n == 2:
        assert isolated == 0


def test_small_differences_of_long_vectors_are_distinguished() -> None:
    points = torch.full((8, 64), 100.0)
    points[:, 0] += torch.tensor([0, 1, 2, 4, 8, 16, 32, 64]) * 2**-12
    assert farthest_points(PointSet.prepare(points, "euclid"), 8, 0).tolist() == [0, 7, 6, 5, 4, 3, 2, 1]
