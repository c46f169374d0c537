"""The space-time graph, against pairwise matrices."""

from __future__ import annotations

import torch

from framefold.adapters.ops.grid_graph import centrality, communities
from framefold.adapters.ops.similarity import neighbour_similarities
from tests.adapters.compressors.test_st_simdiff import drifting


def test_graph_maths_against_pairwise_matrices() -> None:
    x = drifting((6, 3, 4), seed=3)
    sim = neighbour_similarities(x)
    unit = torch.nn.functional.normalize(x, dim=-1)
    torch.testing.assert_close(sim.temporal[1:], (unit[1:] * unit[:-1]).sum(-1))
    torch.testing.assert_close(sim.right[:, :, :-1], (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1))
    torch.testing.assert_close(sim.bottom[:, :-1], (unit[:, 1:] * unit[:, :-1]).sum(-1))
    labels = communities(sim.temporal >= 0.8, sim.right >= 0.8, sim.bottom >= 0.8)
    together = labels[:, None] == labels
    matrix = (unit.flatten(0, 2) @ unit.flatten(0, 2).T) * together
    large = torch.bincount(labels)[labels] > 2
    expected = matrix.sum(1) / together.sum(1)
    torch.testing.assert_close(centrality(x, sim.inverse, labels)[large], expected[large])
