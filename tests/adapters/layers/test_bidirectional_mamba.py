"""STORM's layer: it starts as the identity, is bidirectional or causal, and scans a video in three orders."""

from __future__ import annotations

import torch

from framefold.adapters.layers.bidirectional_mamba import BidirectionalMambaLayer, scan_order
from tests.support.cases import case

SMALL = {"d_state": 8, "headdim": 8, "chunk_size": 8}


def noise(length: int) -> torch.Tensor:
    return torch.randn(1, length, 16, generator=torch.Generator().manual_seed(0))


def test_it_starts_as_the_identity_and_both_directions_are_trained() -> None:
    for bias in [False, True]:
        with case(bias):
            layer, x = BidirectionalMambaLayer(16, bias=bias, **SMALL), noise(19)
            assert torch.equal(layer(x), x)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            for _ in range(2):  # in the first step only the output projections have a gradient
                optimizer.zero_grad()
                layer(x).pow(3).sum().backward()
                optimizer.step()
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_only_a_causal_layer_ignores_later_tokens() -> None:
    for causal, reach in [(True, 0), (False, 13)]:
        with case(causal, reach):
            torch.manual_seed(0)
            layer, x = BidirectionalMambaLayer(16, causal=causal, identity=False, **SMALL), noise(19)
            later = x.clone()
            later[:, 13:] = 3
            moved = (layer(x) - layer(later))[0, :13].abs().amax(-1) > 1e-6
            assert int(moved.sum()) == reach


def test_reversing_the_sequence_and_the_directions_reverses_the_output() -> None:
    torch.manual_seed(0)
    layer, x = BidirectionalMambaLayer(16, identity=False, **SMALL), noise(19)
    expected = layer(x)
    layer.fwd, layer.bwd = layer.bwd, layer.fwd
    torch.testing.assert_close(layer(x.flip(1)).flip(1), expected)


def test_scan_orders() -> None:
    assert scan_order((2, 2, 3), "raster").tolist() == list(range(12))
    assert scan_order((2, 2, 3), "temporal").tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert scan_order((2, 2, 3), "snake").tolist() == [0, 1, 2, 5, 4, 3, 9, 10, 11, 8, 7, 6]


def test_neighbours_in_snake_order_are_neighbours_in_the_video() -> None:
    for grid in [(3, 2, 4), (1, 1, 1), (2, 3, 1), (4, 3, 3)]:
        with case(grid):
            order = scan_order(grid, "snake")
            assert sorted(order.tolist()) == list(range(len(order)))
            places = torch.stack(torch.unravel_index(order, grid), dim=1)
            assert (places.diff(dim=0).abs().sum(1) == 1).all()
