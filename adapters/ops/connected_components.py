"""Connected components of a graph given as a list of edges. Pure tensor maths.

Dimensions: N nodes, E edges.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor


def components(source: Tensor, target: Tensor, n: int) -> Tensor:
    """Component of each node, numbered by the lowest node in it; an isolated node is a component of one.

    On the CPU this is scipy's; elsewhere :func:`propagate`, which leaves the device a few times in all.

    Args:
        source, target: (E,) int64 ends of the edges, in [0, n).
        n: number of nodes.

    Returns:
        (N,) int64 on the device of the edges.
    """
    if source.device.type != "cpu":
        return propagate(source, target, n)
    ends = source.numpy().astype(np.int32), target.numpy().astype(np.int32)
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(n, n))
    _, labels = connected_components(graph.tocsr(), directed=False)
    return torch.from_numpy(labels.astype(np.int64))


def propagate(source: Tensor, target: Tensor, n: int) -> Tensor:
    """What :func:`components` returns, by tensor operations on any device.

    Every edge hangs the root with the higher number under the other, all at once, then each node goes to its root; the
    number of rounds grows with the logarithm of the longest path, and each ends with one look at the device.
    """
    root = torch.arange(n, device=source.device)
    while True:
        low = torch.minimum(root[source], root[target])
        hung = root.clone()
        for end in (source, target):
            hung.scatter_reduce_(0, root[end], low, "amin")
        while not torch.equal(jumped := hung[hung], hung):
            hung = jumped
        if torch.equal(hung, root):
            return torch.unique(root, return_inverse=True)[1]
        root = hung


def spanning_forest(source: Tensor, target: Tensor, n: int) -> Tensor:
    """Which edges join two components that no earlier edge joins: the forest of least total rank, edges being ranked.

    Args:
        source, target: (E,) int64 ends of the edges, first edge first; an edge may come once only.
        n: number of nodes.

    Returns:
        Numbers of those edges, ascending; one fewer than the nodes of each component.
    """
    if source.device.type != "cpu":
        return grow_forest(source, target, n)
    rank = np.arange(1, len(source) + 1)  # from 1: a weight of 0 would be no edge
    graph = coo_array((rank, (source.numpy(), target.numpy())), shape=(n, n))
    return torch.from_numpy(np.sort(minimum_spanning_tree(graph.tocsr()).data).astype(np.int64) - 1)


def grow_forest(source: Tensor, target: Tensor, n: int) -> Tensor:
    """What :func:`spanning_forest` returns, by tensor operations on any device, in a logarithmic number of rounds.

    In a round every tree takes the first edge that leaves it.
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
        tree = propagate(source[chosen], target[chosen], n)
