"""Connected components and spanning forest of a graph given as a list of edges.

Dimensions: N nodes, E edges.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array, csgraph
from torch import Tensor


def connected_components(source: Tensor, target: Tensor, n: int) -> Tensor:
    """Return the component of each node; components are numbered in the order of their lowest nodes.

    SciPy computes them on the CPU, :func:`components_by_propagation` on other devices.

    Args:
        source: (E,) int64 start of each edge, in [0, n).
        target: (E,) int64 end of each edge, in [0, n).
        n: number of nodes.

    Returns:
        (N,) int64 on the device of the edges.
    """
    if source.device.type != "cpu":
        return components_by_propagation(source, target, n)
    ends = source.numpy().astype(np.int32), target.numpy().astype(np.int32)
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(n, n))
    _, labels = csgraph.connected_components(graph.tocsr(), directed=False)
    return torch.from_numpy(labels.astype(np.int64))


def components_by_propagation(source: Tensor, target: Tensor, n: int) -> Tensor:
    """Compute the result of :func:`connected_components` with tensor operations on any device.

    In each round, every edge attaches the root with the higher number to the other root, all at once, and then each
    node is set to its root. The number of rounds, each with a few synchronizations of the device, grows with the
    logarithm of the longest path.
    """
    root = torch.arange(n, device=source.device)
    while True:
        low = torch.minimum(root[source], root[target])
        parent = root.clone()
        for end in (source, target):
            parent.scatter_reduce_(0, root[end], low, "amin")
        while not torch.equal(grandparent := parent[parent], parent):
            parent = grandparent
        if torch.equal(parent, root):
            return torch.unique(root, return_inverse=True)[1]
        root = parent


def spanning_forest(source: Tensor, target: Tensor, n: int) -> Tensor:
    """Return the edges that join two components that no earlier edge joins, i.e. the minimum spanning forest.

    Args:
        source: (E,) int64 start of each edge, in order of increasing weight; no edge may occur twice.
        target: (E,) int64 end of each edge.
        n: number of nodes.

    Returns:
        Positions of those edges, ascending; for each component one fewer than it has nodes.
    """
    if source.device.type != "cpu":
        return boruvka_forest(source, target, n)
    rank = np.arange(1, len(source) + 1)  # from 1, because SciPy treats a weight of 0 as no edge
    graph = coo_array((rank, (source.numpy(), target.numpy())), shape=(n, n))
    return torch.from_numpy(np.sort(csgraph.minimum_spanning_tree(graph.tocsr()).data).astype(np.int64) - 1)


def boruvka_forest(source: Tensor, target: Tensor, n: int) -> Tensor:
    """Compute the result of :func:`spanning_forest` with tensor operations on any device (Boruvka's algorithm).

    In each of a logarithmic number of rounds, every tree adds the first edge that leaves it.
    """
    number = torch.arange(len(source), device=source.device)
    chosen = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    tree = torch.arange(n, device=source.device)
    while True:
        leaves = tree[source] != tree[target]
        if not bool(leaves.any()):
            return chosen.nonzero()[:, 0]
        first = torch.full((n,), len(source), device=source.device)
        for end in (source, target):
            first.scatter_reduce_(0, tree[end[leaves]], number[leaves], "amin")
        chosen[first[first < len(source)]] = True
        tree = components_by_propagation(source[chosen], target[chosen], n)
