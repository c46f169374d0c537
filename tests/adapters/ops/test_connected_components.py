"""Connected components: scipy's on the CPU, tensor operations elsewhere, the same numbers from both."""

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
    """Depth-first, from the lowest node that has no number yet."""
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
def test_nodes_that_a_path_joins_share_a_number_and_the_lowest_node_orders_them(find, graph) -> None:
    edges, n = graph
    ends = torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    assert find(ends[:, 0], ends[:, 1], n).tolist() == walk(edges, n)


@pytest.mark.parametrize("grow", [spanning_forest, boruvka_forest])
@given(graph=graphs())
@settings(max_examples=150, deadline=None)
def test_the_forest_has_the_edges_that_join_what_no_earlier_edge_joins(grow, graph) -> None:
    edges, n = graph
    edges = list(dict.fromkeys(tuple(sorted(edge)) for edge in edges if edge[0] != edge[1]))
    ends = torch.tensor(edges, dtype=torch.long).reshape(-1, 2)
    expected = [i for i in range(len(edges)) if len(set(walk(edges[: i + 1], n))) < len(set(walk(edges[:i], n)))]
    assert grow(ends[:, 0], ends[:, 1], n).tolist() == expected


@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
def test_a_long_path_is_found_in_few_rounds(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 20_000
    nodes = {"up": torch.arange(n), "down": torch.arange(n).flip(0)}.get(
        order, torch.randperm(n, generator=torch.Generator().manual_seed(0))
    )
    looks = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda a, b: looks.append(1) or equal(a, b))
    assert components_by_propagation(nodes[:-1], nodes[1:], n).max() == 0
    assert len(looks) < 120  # and not 20,000: each is one wait for a device


def test_no_edges_leave_every_node_alone() -> None:
    none = torch.zeros(0, dtype=torch.long)
    for find in (connected_components, components_by_propagation):
        assert find(none, none, 4).tolist() == [0, 1, 2, 3]
