"""STORM: the encoder before pooling, its initialization, its scan orders, causality, and sampling at inference."""

from __future__ import annotations

import itertools

import pytest
import torch

import framefold
from framefold import Compressor, VideoTokens
from framefold.adapters.layers.bidirectional_mamba import scan_order
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import same
from tests.support.videos import noise

WIDTH = 16


def video(t: int = 8, h: int = 2, w: int = 3, width: int = WIDTH, seed: int = 0) -> VideoTokens:
    return VideoTokens.from_grid(noise(t, h, w, width, seed=seed))


def moved(**params) -> Compressor:
    """A storm whose output projections are no longer zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        storm = framefold.build("storm", 12, dim=WIDTH, d_state=8, **params)
        for parameter in storm.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return storm.eval()


def test_untrained_it_equals_pool_bit_by_bit() -> None:
    for dtype, params in itertools.product(
        (torch.float32, torch.bfloat16, torch.float64),
        ({}, {"spatial": 2}, {"causal": True}, {"inner": 8}, {"scan": "snake"}, {"scan": "alternating"}),
    ):
        clip = video().to(dtype)
        pool = framefold.build("pool", 13, spatial=params.get("spatial", 1))(clip).tokens
        assert same(framefold.build("storm", 13, **params)(clip).tokens, pool), (dtype, params)


def test_encoded_tokens_are_pooled() -> None:
    for scan in ("raster", "temporal", "snake", "alternating"):
        with case(scan):
            clip, storm = video(), moved(scan=scan)
            encoded = storm.encode(clip)
            assert not torch.allclose(encoded.features, clip.features, atol=1e-2)
            pooled = framefold.build("pool", 12)(encoded).tokens
            torch.testing.assert_close(storm(clip).tokens.features, pooled.features)


def test_the_temporal_order_follows_each_position_through_time() -> None:
    clip = video(5, 2, 3)
    positions = VideoTokens.from_grid(clip.as_grid().movedim(0, 2).reshape(1, 1, 30, WIDTH))  # t runs fastest
    by_position = (
        moved(scan="raster").encode(positions).features.reshape(2, 3, 5, WIDTH).movedim(2, 0).reshape(30, WIDTH)
    )
    torch.testing.assert_close(moved(scan="temporal").encode(clip).features, by_position)


def test_alternating_scans_follow_time_first_and_rows_second() -> None:
    clip, storm = video(5, 2, 3), moved(scan="alternating", layers=3)
    scale = clip.features.square().mean(-1, keepdim=True).sqrt()
    x = clip.features / scale
    for layer, order in zip(storm.mixing, ("temporal", "raster", "temporal"), strict=True):
        rows = scan_order(clip.grid, order)
        y = torch.empty_like(x)
        y[rows] = layer(x[rows][None])[0]
        x = y
    torch.testing.assert_close(storm.encode(clip).features, x * scale, rtol=1e-4, atol=1e-4)


def test_only_a_causal_encoder_ignores_later_frames() -> None:
    clip = video()
    other = clip.as_grid().clone()
    other[5:] = noise(3, 2, 3, WIDTH, seed=9)
    for causal in (True, False):
        storm = moved(causal=causal)
        one, two = (storm.encode(VideoTokens.from_grid(x)).as_grid()[:5] for x in (clip.as_grid(), other))
        assert torch.equal(one, two) == causal


def test_a_change_of_one_token_reaches_all_later_frames() -> None:
    storm, clip = moved(causal=True), video()
    other = clip.as_grid().clone()
    other[0, 0, 0] += 3.0
    change = storm.encode(VideoTokens.from_grid(other)).as_grid() - storm.encode(clip).as_grid()
    assert bool((change[1:].abs().amax(-1) > 1e-5).all())


def test_sampling_keeps_every_second_one_of_twice_as_many_runs() -> None:
    clip, storm = video(16, 1, 2), moved(sample=2)
    storm.budget = 8  # four runs of the two places
    out = storm(clip).tokens
    pooled = framefold.build("pool", 16)(storm.encode(clip)).tokens.features.reshape(8, 2, WIDTH)
    torch.testing.assert_close(out.features.reshape(4, 2, WIDTH), pooled[::2])
    assert len(out) == 8 and int((out.assign < 0).sum()) == 16 and set(out.size.tolist()) == {2}


def test_sampling_meets_every_budget() -> None:
    clip = video(16, 1, 2)
    for sample in (2, 3, 100):
        storm = moved(sample=sample)
        for budget in (1, 2, 3, 5, 9, 16, 31, 32):
            storm.budget = budget
            out = storm(clip).tokens
            assert len(out) == budget, (sample, budget)
            assert torch.equal(torch.bincount(out.assign + 1, minlength=budget + 1)[1:], out.size)


def test_sampling_is_refused_during_training() -> None:
    with pytest.raises(ConfigError, match="train with sample=1"):
        moved(sample=2).train()(video())


def test_wide_tokens_use_a_bottleneck() -> None:
    wide = framefold.build("storm", 4, dim=1024, layers=1)
    full = framefold.build("storm", 4, dim=1024, inner=1024, layers=1)
    count = [sum(p.numel() for p in storm.parameters()) for storm in (wide, full)]
    assert wide.params()["inner"] == 512 and full.down is None and count[0] < 0.5 * count[1]
    clip = video(4, 1, 2, 1024)
    assert torch.equal(wide(clip).tokens.features, framefold.build("pool", 4)(clip).tokens.features)


def test_the_change_scales_with_the_features() -> None:
    for params in ({}, {"inner": 8}):
        with case(params):
            clip, storm = video(), moved(**params)
            large = VideoTokens.from_grid(1000 * clip.as_grid())
            scaled = 1000 * storm.encode(clip).features
            torch.testing.assert_close(storm.encode(large).features, scaled, rtol=1e-4, atol=1e-2)


def test_recomputing_the_scan_gives_the_same_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        storm = moved(checkpointing=checkpointing).train()
        storm(video()).tokens.features.square().sum().backward()
        grads.append([p.grad for p in storm.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {
        "scan": "spiral",
        "layers": 0,
        "sample": 0,
        "spatial": 0,
        "inner": -1,
        "d_state": 2**40,
    }.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("storm", 0.1, **{name: value})


def test_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="width 16"):
        moved()(video(width=8))
