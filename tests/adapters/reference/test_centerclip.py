"""Spectral clustering of CenterCLIP's release with graphs that no golden file has."""

from __future__ import annotations

import torch

from framefold.adapters.reference.centerclip import kmedoids, spectral
from tests.support.videos import noise


def test_a_graph_of_all_neighbours_is_the_complete_one() -> None:
    points = noise(2, 20, 4)
    for ours, expected in zip(spectral(points, 4, neighbours=20), spectral(points, 4), strict=True):
        assert torch.equal(ours, expected)


def test_the_parts_of_a_graph_of_neighbours_become_the_clusters() -> None:
    """Concentric rings: neighbours connect each ring, which no medoid can represent."""
    angle = torch.arange(24) * (2 * torch.pi / 24)
    ring = torch.stack([angle.cos(), angle.sin()], dim=-1)
    points = torch.cat([ring * 0.9, ring * 4])
    assign = spectral(points[None], 2, neighbours=3)[0][0]
    assert set(assign[:24].tolist()) != set(assign[24:].tolist()) and len(set(assign[:24].tolist())) == 1
    assert len(set(kmedoids(points[None], 2)[0][0][24:].tolist())) == 2


def test_copies_are_medoids_of_their_own_clusters_as_in_the_release() -> None:
    points = torch.tensor([[0.0, 1.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assign, medoids = kmedoids(points[None], 3)
    assert medoids.tolist() == [[0, 1, 2]] and assign.tolist() == [[0, 1, 2, 0]]
