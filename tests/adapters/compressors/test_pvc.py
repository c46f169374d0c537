"""pvc: its start at pool, causality, attention over time, and details of cells."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.layers.causal_attention import CausalTimeAttention
from framefold.adapters.layers.time_encoding import OCTAVES, second_features, time_features
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16
SETTINGS: list[dict[str, Any]] = [{}, {"spatial": 2}, {"inner": 8, "spatial": 2}, {"layers": 2, "heads": 4}]


def video(frames: int = 12, h: int = 3, w: int = 4) -> VideoTokens:
    return VideoTokens.from_grid(features((frames, h, w)), times=0.5 * torch.arange(frames))


def moved(budget: float | int = 0.2, **params: Any) -> Any:
    """A compressor whose parameters have left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("pvc", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_pool_bit_by_bit() -> None:
    budgets, dtypes = (1, 0.07, 0.5, 143, 1.0), (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for setting in SETTINGS:
        plain, fresh = framefold.build("pool", spatial=setting.get("spatial", 1)), framefold.build("pvc", **setting)
        for dtype, budget in itertools.product(dtypes, budgets):
            with case(setting, dtype, budget):
                clip = video().to(dtype)
                fresh.budget = plain.budget = budget
                assert same(fresh(clip).tokens, plain(clip).tokens)
                with torch.autocast("cpu", torch.bfloat16):
                    assert same(fresh(clip).tokens, plain(clip).tokens)
        half = framefold.build("pvc", 17, dim=WIDTH, **setting).bfloat16()
        clip, plain.budget = video().to(torch.bfloat16), 17
        assert same(half(clip).tokens, plain(clip).tokens), setting


def test_encoded_tokens_are_pooled() -> None:
    compressor, clip = moved(spatial=2), video()
    encoded = compressor.encode(clip)
    assert not torch.allclose(encoded.features, clip.features, atol=1e-2)
    expected = framefold.build("pool", 0.2, spatial=2)(encoded).tokens
    torch.testing.assert_close(compressor(clip).tokens.features, expected.features)
    chain = framefold.build("pvc+uniform", 24)
    assert len(chain(clip).tokens) == 24


def test_later_frames_change_no_earlier_token() -> None:
    """Whether they differ, or are not there yet; a token reads its own place in earlier frames."""
    for setting in SETTINGS:
        compressor, clip = moved(**setting), video()
        whole = compressor.encode(clip).features
        for frames in (1, 5, 11):
            start = VideoTokens.from_grid(clip.as_grid()[:frames], times=clip.times[:frames])
            torch.testing.assert_close(compressor.encode(start).features, whole[: 12 * frames], atol=1e-5, rtol=1e-4)
        x = clip.as_grid().clone()
        x[5, 1, 1] += noise(WIDTH, seed=8)
        other = compressor.encode(VideoTokens.from_grid(x, times=clip.times)).features
        changed = (other != whole).any(1).view(12, 3, 4)
        assert not changed[:5].any() and changed[5:, 1, 1].all()
        if compressor.details is None:
            changed[:, 1, 1] = False
            assert not changed.any()


def test_a_layer_is_causal_attention_modulated_by_time() -> None:
    """The rule of the docstring, token by token."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = CausalTimeAttention(8, 2, 3)
        for parameter in layer.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    x, times = noise(5, 3, 8), noise(5, 3, seed=2)
    factor, shift = layer.modulation(times).chunk(2, -1)
    normed = layer.norm(x) * (1 + factor[:, None]) + shift[:, None]
    q, k, v = layer.qkv(normed).chunk(3, -1)
    expected = torch.empty_like(x)
    for frame, place in itertools.product(range(5), range(3)):
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            weights = (k[: frame + 1, place, part] @ q[frame, place, part] / 2).softmax(0)
            heads.append(weights @ v[: frame + 1, place, part])
        expected[frame, place] = x[frame, place] + layer.out(torch.cat(heads))
    torch.testing.assert_close(layer(x, times), expected)
    with pytest.raises(ConfigError, match="divisible"):
        CausalTimeAttention(8, 3, 3)


def test_details_are_a_linear_function_of_the_differences_in_a_cell() -> None:
    compressor, x = moved(spatial=2), noise(2, 3, 4, WIDTH)
    found = compressor.cell_details(x)
    for row, column in itertools.product((0, 2), (0, 2)):
        cell = x[:, row : row + 2, column : column + 2]  # at the lower border, one row
        differences = torch.zeros(2, 2, 2, WIDTH)
        differences[:, : cell.shape[1]] = cell - cell.mean((1, 2), keepdim=True)
        expected = compressor.details(differences.flatten(1))
        for one in found[:, row : row + 2, column : column + 2].flatten(1, 2).unbind(1):
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)
    same_everywhere = noise(2, 1, 1, WIDTH).expand(2, 3, 4, WIDTH)
    torch.testing.assert_close(compressor.cell_details(same_everywhere), torch.zeros(2, 3, 4, WIDTH), atol=1e-5, rtol=0)


def test_encoded_seconds_do_not_depend_on_the_length_of_the_video() -> None:
    long, short = video(12), video(5)
    assert torch.equal(second_features(long)[:60], second_features(short))
    assert not torch.equal(time_features(long)[:60], time_features(short))
    waves = second_features(long)[12 * 3, [0, OCTAVES]]  # 1.5 s, period 4 s
    expected = torch.tensor([1.5 / 4, 1.5 / 4 + 0.25]).mul(2 * torch.pi).sin()
    torch.testing.assert_close(waves.double(), expected.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_parameter_has_a_gradient_within_two_steps(setting: dict[str, Any]) -> None:
    check_gradients_within_two_steps(framefold.build("pvc", 0.2, dim=WIDTH, **setting), video())


def test_a_scaled_video_gives_scaled_tokens() -> None:
    compressor, clip = moved(spatial=2), video()
    for factor in (1e-9, 1e3):
        large = VideoTokens.from_grid(factor * clip.as_grid(), times=clip.times)
        expected = factor * compressor(clip).tokens.features
        torch.testing.assert_close(compressor(large).tokens.features, expected, rtol=1e-3, atol=1e-2 * factor)


def test_weights_are_made_on_the_meta_device_and_are_few() -> None:
    for width, spatial in itertools.product((3584, 8192), (1, 2)):
        compressor = framefold.build("pvc", spatial=spatial)
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        least = 2 * width * 512 + (4 + (4 if spatial > 1 else 0)) * 512**2
        assert least < sum(p.numel() for p in compressor.parameters()) < 1.05 * least


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"spatial": 0, "layers": 0, "inner": 0, "heads": 0, "dim": 2**40}.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("pvc", **{name: value})
    with pytest.raises(InputError, match="width 16"):
        moved()(VideoTokens.from_grid(noise(4, 2, 2, 8)))
