"""Deterministic k-means, against Lloyd's algorithm in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops import kmeans as clustering
from framefold.adapters.ops.kmeans import kmeans
from tests.support.videos import noise


def lloyd(points: list[list[float]], k: int, iterations: int) -> list[int]:
    """Labels by the rules of the docstring, one point at a time."""

    def distance(a: list[float], b: list[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    def first(values: list[float], best: float) -> int:
        return values.index(best)

    centres = [points[0]]
    while len(centres) < k:
        near = [min(distance(point, centre) for centre in centres) for point in points]
        centres.append(points[first(near, max(near))])
    labels: list[int] = []
    for _ in range(iterations):
        table = [[distance(point, centre) for centre in centres] for point in points]
        new = [first(row, min(row)) for row in table]
        for cluster in range(k):
            if cluster not in new:
                own = [row[label] if new.count(label) > 1 else -1 for row, label in zip(table, new, strict=True)]
                new[first(own, max(own))] = cluster
        if new == labels:
            break
        labels = new
        groups = [[point for point, label in zip(points, labels, strict=True) if label == c] for c in range(k)]
        centres = [[sum(column) / len(group) for column in zip(*group, strict=True)] for group in groups]
    return labels


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    points=st.lists(st.lists(st.integers(-6, 6), min_size=2, max_size=2), min_size=2, max_size=14),
    iterations=st.sampled_from([1, 2, 50]), data=st.data(),
)  # fmt: skip
def test_kmeans_against_the_reference(points: list[list[int]], iterations: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(points) - 1))  # coordinates of a coarse grid tie often
    labels, _ = kmeans(torch.tensor(points), k, iterations)
    assert labels.tolist() == lloyd([[float(x) for x in point] for point in points], k, iterations)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(count=st.integers(1, 25), seed=st.integers(0, 999), copies=st.booleans(), data=st.data())
def test_kmeans_reaches_a_fixed_point(count: int, seed: int, copies: bool, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, count))
    points = noise(count, 3, seed=seed).double()
    if copies:
        points = points[torch.arange(count) // 4]
    labels, centres = kmeans(points, k)
    assert sorted(set(labels.tolist())) == list(range(k))
    for cluster in range(k):
        torch.testing.assert_close(centres[cluster], points[labels == cluster].mean(0))
    if not copies:  # where points coincide, clusters of copies are equally near
        assert torch.equal(torch.cdist(points, centres).argmin(1), labels)
    assert torch.equal(kmeans(points.float(), k)[0], kmeans(points.float(), k)[0])


def test_kmeans_finds_separate_clusters() -> None:
    points = torch.tensor([[0.0], [10.0], [0.1], [5.0], [10.1], [5.1], [0.2]])
    assert kmeans(points, 3)[0].tolist() == [0, 1, 0, 2, 1, 2, 0]
    assert kmeans(torch.zeros(5, 2), 3)[0].bincount().tolist() == [3, 1, 1]
    assert kmeans(torch.tensor([[1.0], [2.0]]), 2)[0].tolist() == [0, 1]


def test_kmeans_stops_at_the_upper_bound_of_iterations() -> None:
    points = torch.tensor([[9.0], [1.0], [18.0], [11.0], [16.0], [0.0], [12.0]])  # converges in three iterations
    found = [kmeans(points, 2, iterations) for iterations in (1, 2, 3, 50)]
    assert len({tuple(labels.tolist()) for labels, _ in found}) == 4
    for labels, centres in found:
        torch.testing.assert_close(centres[0], points[labels == 0].double().mean(0))


def test_an_emptied_cluster_takes_the_point_farthest_from_its_own_centre() -> None:
    """The point is taken from a cluster of at least two. Called directly, because clusters rarely become empty."""
    own = [5.0, 9.0, 2.0, 7.0, 7.0, 1.0]
    labels = torch.tensor([0, 2, 0, 0, 0, 3])
    assert clustering._fill_empty(labels, torch.tensor(own), 5).tolist() == [0, 2, 0, 1, 4, 3]


def test_as_many_clusters_as_points_need_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "_farthest_first", lambda *_: pytest.fail("searched"))
    for points in (noise(5, 3), torch.zeros(5, 3)):
        labels, centres = kmeans(points, 5)
        assert labels.tolist() == list(range(5)) and torch.equal(centres, points.double())
