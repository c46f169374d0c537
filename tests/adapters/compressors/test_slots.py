"""slots: its start at pool, its weighted means, and time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors import slots as module
from framefold.adapters.layers.time_encoding import place_features, time_features
from framefold.adapters.reference.vtgllm import slot_tokens
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16
SETTINGS: list[dict[str, Any]] = [{}, {"spatial": 2}, {"inner": 8}]


def video(frames: int = 12, seconds: float = 0.5) -> VideoTokens:
    return VideoTokens.from_grid(features((frames, 3, 4)), times=seconds * torch.arange(frames))


def moved(budget: float | int = 0.2, **params: Any) -> Any:
    """A compressor whose parameters have left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("slots", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_pool_bit_by_bit() -> None:
    budgets, dtypes = (1, 0.07, 0.5, 143, 1.0), (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for setting in SETTINGS:
        plain = framefold.build("pool", spatial=setting.get("spatial", 1))
        fresh = framefold.build("slots", **setting)
        for dtype, budget in itertools.product(dtypes, budgets):
            with case(setting, dtype, budget):
                clip = video().to(dtype)
                fresh.budget = plain.budget = budget
                assert same(fresh(clip).tokens, plain(clip).tokens)
                with torch.autocast("cpu", torch.bfloat16):
                    assert same(fresh(clip).tokens, plain(clip).tokens)
        half = framefold.build("slots", 17, dim=WIDTH, **setting).bfloat16()
        clip, plain.budget = video().to(torch.bfloat16), 17
        assert same(half(clip).tokens, plain(clip).tokens), setting


def test_slots_are_means_of_all_tokens_weighted_by_time_and_content() -> None:
    """The rule of the docstring, slot by slot."""
    for inner in (None, 8):
        compressor, clip = moved(9, inner=inner), video()
        base, out = framefold.build("pool", 9)(clip).tokens, compressor(clip).tokens
        scale = clip.features.square().mean().sqrt()
        x = clip.features / scale
        x = (x if inner is None else compressor.down(x)) + compressor.when(time_features(clip))
        learned = compressor.slot(torch.cat([time_features(base), place_features(base)], -1))
        times = torch.arange(12).repeat_interleave(12) / 11
        for row in range(9):
            distance = (times - times[base.index[row]]).abs()
            weights = (x @ learned[row] / x.shape[1] ** 0.5 - compressor.nearness.exp() * distance).softmax(0)
            expected = base.features[row] + scale * compressor.up(weights @ x)
            torch.testing.assert_close(out.features[row], expected, atol=1e-4, rtol=1e-4)


def test_without_time_a_slot_is_that_of_the_release() -> None:
    compressor, tokens, learned = moved(), noise(40, WIDTH), noise(WIDTH, 6, seed=3)
    with torch.no_grad():
        compressor.nearness.fill_(-torch.inf)
    found = compressor.read(tokens, learned.T * WIDTH**0.5, torch.rand(40), torch.rand(6))
    torch.testing.assert_close(found, slot_tokens(tokens[None], learned)[0])


def test_few_slots_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor, clip = moved(), video()
    whole = compressor(clip).tokens.features
    monkeypatch.setattr(module, "MOST_PAIRS", 144 * 5)
    torch.testing.assert_close(compressor(clip).tokens.features, whole)


def test_a_fresh_slot_looks_near_its_anchor_first() -> None:
    """A frame next to the anchor outweighs one at the other end of the video."""
    compressor = framefold.build("slots", dim=WIDTH)
    same_content = torch.ones(2, WIDTH)
    tokens = torch.cat([same_content * 0, same_content])
    near, far = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    zero = torch.zeros(1, WIDTH), torch.zeros(1)
    late = compressor.read(tokens, zero[0], near, zero[1])
    early = compressor.read(tokens, zero[0], far, zero[1])
    assert late.max() < 1e-6 and early.min() > 1 - 1e-6


def test_time_and_place_are_used_and_ten_hours_are_no_limit() -> None:
    compressor = moved()
    short, long = compressor(video()).tokens.features, compressor(video(seconds=36_000 / 11)).tokens.features
    assert torch.isfinite(long).all() and not torch.allclose(short, long, atol=1e-3)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_parameter_has_a_gradient_within_two_steps(setting: dict[str, Any]) -> None:
    check_gradients_within_two_steps(framefold.build("slots", 0.2, dim=WIDTH, **setting), video())


def test_the_change_scales_with_the_features() -> None:
    compressor, clip = moved(), video()
    for factor in (1e-20, 1e3):
        large = VideoTokens.from_grid(factor * clip.as_grid(), times=clip.times)
        expected = factor * compressor(clip).tokens.features
        torch.testing.assert_close(compressor(large).tokens.features, expected, rtol=1e-3, atol=1e-2 * factor)


def test_weights_are_made_on_the_meta_device_and_are_few() -> None:
    for width in (3584, 8192):
        compressor = framefold.build("slots")
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        assert sum(p.numel() for p in compressor.parameters()) == 2 * 512 * width + 512 * (1 + 32 + 48 + 1) + 1


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"spatial": 0, "inner": 0, "dim": 2**40}.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("slots", **{name: value})
    with pytest.raises(InputError, match="width 16"):
        moved()(VideoTokens.from_grid(noise(4, 2, 2, 8)))
