"""Connected components and spanning forests: SciPy and tensor operations give the same result."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops.connected_components import (
    boruvka_forest,
    components_by_propagation,
    connected_components,
    spanning_forest,
)


def walk(edges: list[tuple[int, int]], n: int) -> list[int]:
    """Depth-first search from the lowest node without a number."""
    near: dict[int, list[int]] = {node: [] for node in range(n)}
    for a, b in edges:
        near[a].append(b)
        near[b].append(a)
    label = [-1] * n
    for start in range(n):
        if label[start] >= 0:
            continue
        number, stack = max(label) + 1, [start]
        while stack:
            node = stack.pop()
            if label[node] < 0:
                label[node] = number
                stack += near[node]
    return label


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int]:
    n = draw(st.integers(1, 30))
    node = st.integers(0, n - 1)
    return draw(st.lists(st.tuples(node, node), max_size=45)), n


@pytest.mark.parametrize("find", [connected_components, components_by_propagation])
@given(graph=graphs())
@settings(max_examples=150, deadline=None)
def test_components_are_numbered_by_their_lowest_nodes(find, graph) -> None:
    edges, n = graph
    ends = torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    assert find(ends[:, 0], ends[:, 1], n).tolist() == walk(edges, n)


@pytest.mark.parametrize("grow", [spanning_forest, boruvka_forest])
@given(graph=graphs())
@settings(max_examples=150, deadline=None)
def test_the_forest_has_the_edges_that_join_two_components(grow, graph) -> None:
    edges, n = graph
    edges = list(dict.fromkeys(tuple(sorted(edge)) for edge in edges if edge[0] != edge[1]))
    ends = torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    expected = [i for i in range(len(edges)) if len(set(walk(edges[: i + 1], n))) < len(set(walk(edges[:i], n)))]
    assert grow(ends[:, 0], ends[:, 1], n).tolist() == expected


def test_a_long_path_is_found_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    n, equal = 20_000, torch.equal
    synchronizations: list[int] = []
    monkeypatch.setattr(torch, "equal", lambda a, b: synchronizations.append(1) or equal(a, b))
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    for nodes in (torch.arange(n), torch.arange(n).flip(0), shuffled):
        synchronizations.clear()
        assert components_by_propagation(nodes[:-1], nodes[1:], n).max() == 0
        assert len(synchronizations) < 120  # each waits for the device; a round per node would be 20,000


def test_without_edges_every_node_is_a_component() -> None:
    none = torch.zeros(0, dtype=torch.long)
    for find in (connected_components, components_by_propagation):
        assert find(none, none, 4).tolist() == [0, 1, 2, 3]
