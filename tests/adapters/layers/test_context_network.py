"""Features of tokens and their surroundings."""

from __future__ import annotations

import pytest
import torch

from framefold.adapters.layers.context_network import ContextNetwork, check_context, unit_frames
from framefold.errors import ConfigError
from tests.support.videos import noise


def moved(outputs: int = 3, layers: int = 1) -> ContextNetwork:
    torch.manual_seed(0)
    network = ContextNetwork(8, [16] * layers, outputs)
    torch.nn.init.normal_(network.out.weight)
    return network


def test_it_starts_at_zero_and_learns_from_the_first_step() -> None:
    network, frames = ContextNetwork(8, [16], 3), noise(4, 3, 5, 8)
    out = network(frames)
    assert out.shape == (60, 3) and not out.any()
    out.sum().backward()
    assert network.out.weight.grad is not None and bool(network.out.weight.grad.any())


def test_a_token_reads_its_neighbours_in_the_frame_and_its_place_in_the_frames_around() -> None:
    frames, network, token = noise(5, 6, 7, 8), moved(), (2, 3, 3)
    before = network(frames).view(5, 6, 7, 3)
    read = torch.zeros(5, 6, 7, dtype=torch.bool)
    for place in torch.cartesian_prod(torch.arange(5), torch.arange(6), torch.arange(7)).tolist():
        other = frames.clone()
        other[tuple(place)] += 1.0
        read[tuple(place)] = not torch.equal(network(other).view(5, 6, 7, 3)[token], before[token])
    expected = torch.zeros_like(read)
    expected[2, 2:5, 2:5] = True
    expected[1, 3, 3] = expected[3, 3, 3] = True
    assert torch.equal(read, expected)


def test_every_layer_reads_one_frame_and_one_token_further() -> None:
    frames, network = noise(7, 7, 7, 8), moved(layers=2)
    before = network(frames).view(7, 7, 7, 3)[3, 3, 3]
    for place, reads in {(1, 3, 3): True, (5, 3, 3): True, (3, 1, 5): True, (0, 3, 3): False, (3, 0, 3): False}.items():
        other = frames.clone()
        other[place] += 1.0
        assert torch.equal(network(other).view(7, 7, 7, 3)[3, 3, 3], before) != reads, place


def test_widths_out_of_range_are_refused() -> None:
    for wrong in ((0,), (8, -1), (2**30,), (8,) * 17):
        with pytest.raises(ConfigError, match="name: context must be"):
            check_context("name", wrong)
    check_context("name", ())


def test_the_mean_at_the_border_counts_existing_neighbours_only() -> None:
    network = moved(1)
    with torch.no_grad():
        network.layers[0].weight[:, :24] = 0  # reads the mean of the neighbours alone
        out = network(torch.ones(2, 3, 3, 8)).view(2, 3, 3)
    torch.testing.assert_close(out, out[0, 1, 1].expand(2, 3, 3))


def test_one_frame_has_no_changes() -> None:
    assert bool(torch.isfinite(moved()(noise(1, 2, 2, 8))).all())


def test_unit_frames_have_an_rms_of_1_at_any_scale() -> None:
    features = noise(12, 8)
    expected = unit_frames(features, (3, 2, 2))
    assert expected.shape == (3, 2, 2, 8) and abs(float(expected.square().mean()) - 1) < 1e-5
    for scale in (1e-15, 1e15):
        torch.testing.assert_close(unit_frames(scale * features, (3, 2, 2)), expected)
    assert not unit_frames(torch.zeros(12, 8), (3, 2, 2)).any()
    assert unit_frames(features.to(torch.bfloat16), (3, 2, 2)).dtype == torch.float32
