"""STORM: the encoder in front of pooling, its start, its orders, streaming, and sampling at inference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import framefold
from framefold import Compressor, VideoTokens
from framefold.errors import ConfigError, InputError

WIDTH = 16


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("params", [{}, {"spatial": 2}, {"causal": True}, {"inner": 8}, {"scan": "snake"}])
def test_untrained_it_is_pool_to_the_bit(params: dict, dtype: torch.dtype) -> None:
    clip = video().to(dtype)
    pool = framefold.build("pool", 13, spatial=params.get("spatial", 1))(clip).tokens
    storm = framefold.build("storm", 13, **params)(clip).tokens
    assert all(torch.equal(getattr(storm, key), getattr(pool, key)) for key in ("features", "index", "size", "assign"))


@pytest.mark.parametrize("scan", ["raster", "temporal", "snake"])
def test_pooling_is_of_what_the_encoder_wrote(scan: str) -> None:
    clip, storm = video(), moved(scan=scan)
    encoded = storm.encode(clip)
    assert not torch.allclose(encoded.features, clip.features, atol=1e-2)
    pooled = framefold.build("pool", 12)(encoded).tokens
    torch.testing.assert_close(storm(clip).tokens.features, pooled.features)


def test_the_temporal_order_follows_each_place_through_time() -> None:
    clip = video(5, 2, 3)
    places = VideoTokens.from_grid(clip.as_grid().movedim(0, 2).reshape(1, 1, 30, WIDTH))  # t runs fastest
    by_place = moved(scan="raster").encode(places).features.reshape(2, 3, 5, WIDTH).movedim(2, 0).reshape(30, WIDTH)
    torch.testing.assert_close(moved(scan="temporal").encode(clip).features, by_place)


def test_a_causal_encoder_does_not_look_ahead_and_the_other_does() -> None:
    clip = video()
    other = clip.as_grid().clone()
    other[5:] = noise(3, 2, 3, WIDTH, seed=9)
    for causal in (True, False):
        storm = moved(causal=causal)
        one, two = (storm.encode(VideoTokens.from_grid(x)).as_grid()[:5] for x in (clip.as_grid(), other))
        assert torch.equal(one, two) == causal


def test_the_scan_carries_what_was_seen_to_later_frames() -> None:
    storm, clip = moved(causal=True), video()
    other = clip.as_grid().clone()
    other[0, 0, 0] += 3.0
    change = storm.encode(VideoTokens.from_grid(other)).as_grid() - storm.encode(clip).as_grid()
    assert bool((change[1:].abs().amax(-1) > 1e-5).all())


def test_sampling_keeps_every_second_of_twice_as_many_runs() -> None:
    clip, storm = video(16, 1, 2), moved(sample=2)
    storm.budget = 8  # four runs of the two places
    out = storm(clip).tokens
    pooled = framefold.build("pool", 16)(storm.encode(clip)).tokens.features.reshape(8, 2, WIDTH)
    torch.testing.assert_close(out.features.reshape(4, 2, WIDTH), pooled[::2])
    assert len(out) == 8 and int((out.assign < 0).sum()) == 16 and set(out.size.tolist()) == {2}


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 9, 16, 31, 32])
@pytest.mark.parametrize("sample", [2, 3, 100])
def test_sampling_meets_every_budget(sample: int, budget: int) -> None:
    storm = moved(sample=sample)
    storm.budget = budget
    out = storm(video(16, 1, 2)).tokens
    assert len(out) == budget
    assert torch.equal(torch.bincount(out.assign + 1, minlength=budget + 1)[1:], out.size)


def test_sampling_is_for_inference() -> None:
    with pytest.raises(ConfigError, match="train with sample=1"):
        moved(sample=2).train()(video())


def test_wide_tokens_go_through_a_bottleneck() -> None:
    wide = framefold.build("storm", 4, dim=1024, layers=1)
    full = framefold.build("storm", 4, dim=1024, inner=1024, layers=1)
    count = [sum(p.numel() for p in storm.parameters()) for storm in (wide, full)]
    assert wide.params()["inner"] == 512 and full.down is None and count[0] < 0.5 * count[1]
    clip = video(4, 1, 2, 1024)
    assert torch.equal(wide(clip).tokens.features, framefold.build("pool", 4)(clip).tokens.features)


@pytest.mark.parametrize("params", [{}, {"inner": 8}])
def test_the_change_scales_with_the_features(params: dict) -> None:
    clip, storm = video(), moved(**params)
    large = VideoTokens.from_grid(1000 * clip.as_grid())
    torch.testing.assert_close(storm.encode(large).features, 1000 * storm.encode(clip).features, rtol=1e-4, atol=1e-2)


def test_recomputing_the_scan_gives_the_same_gradients() -> None:
    grads = []
    for checkpointing in (False, True):
        storm = moved(checkpointing=checkpointing).train()
        storm(video()).tokens.features.square().sum().backward()
        grads.append([p.grad for p in storm.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    "params", [{"scan": "spiral"}, {"layers": 0}, {"sample": 0}, {"spatial": 0}, {"inner": -1}, {"d_state": 2**40}]
)
def test_settings_out_of_range_are_refused(params: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(params))):
        framefold.build("storm", 0.1, **params)


def test_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="width 16"):
        moved()(video(width=8))
