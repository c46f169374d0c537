"""prototypes: its start at pool, its passes, its time scales and its losses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.prototypes import squared_cosine
from framefold.adapters.layers.time_encoding import time_features
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16
SETTINGS: list[dict[str, Any]] = [{}, {"spatial": 2, "inner": 8}, {"passes": 1}]


def video(frames: int = 12) -> VideoTokens:
    return VideoTokens.from_grid(features((frames, 3, 4)), times=0.5 * torch.arange(frames))


def moved(budget: float | int = 0.2, **params: Any) -> Any:
    """A compressor whose parameters have left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("prototypes", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_pool_bit_by_bit() -> None:
    budgets, dtypes = (1, 0.07, 0.5, 143, 1.0), (torch.float32, torch.bfloat16, torch.float64)
    for setting in SETTINGS:
        fresh, plain = (
            framefold.build("prototypes", **setting),
            framefold.build("pool", spatial=setting.get("spatial", 1)),
        )
        for dtype, budget, frames in itertools.product(dtypes, budgets, (1, 3, 12)):
            with case(setting, dtype, budget, frames):
                clip = video(frames).to(dtype)
                fresh.budget = plain.budget = budget
                assert same(fresh(clip).tokens, plain(clip).tokens)
                with torch.autocast("cpu", torch.bfloat16):
                    assert same(fresh(clip).tokens, plain(clip).tokens)
        half = framefold.build("prototypes", 17, dim=WIDTH, **setting).bfloat16()
        clip, plain.budget = video().to(torch.bfloat16), 17
        assert same(half(clip).tokens, plain(clip).tokens), setting


def test_the_memory_is_the_video_and_its_averages_over_windows() -> None:
    """Of 7 frames: windows of 2 give 4 averages, those of 4 give 2, and 8 frames are more than there are."""
    clip = video(7)
    memory = moved().read_memory(clip, clip)
    x, times = clip.as_grid().flatten(1, 2), time_features(clip).unflatten(0, (7, 12))
    assert memory.features.shape == (1, (7 + 4 + 2) * 12, WIDTH)
    assert torch.equal(memory.features[0, : 7 * 12], clip.features)
    for first, ends in ((7, [0, 2, 4, 6, 7]), (11, [0, 4, 7])):
        for window, (start, end) in enumerate(itertools.pairwise(ends)):
            rows = slice(12 * (first + window), 12 * (first + window + 1))
            torch.testing.assert_close(memory.features[0, rows], x[start:end].mean(0))
            torch.testing.assert_close(memory.places[0, rows], times[start:end].mean(0))


def test_passes_share_their_weights() -> None:
    counts = {sum(p.numel() for p in moved(passes=passes).parameters()) for passes in (1, 2, 3)}
    assert len(counts) == 1
    outputs = [moved(passes=passes)(video()).tokens.features for passes in (1, 2, 3)]
    assert all((one - other).abs().mean() > 0.01 for one, other in itertools.pairwise(outputs))
    module = moved().resampler
    inputs = noise(5, WIDTH), noise(1, 9, WIDTH), noise(5, 32), noise(1, 9, 32), torch.zeros(5, dtype=torch.long)
    start = inputs[0] + module.when(inputs[2])
    x, place = start[None], module.place(inputs[3])
    for _ in range(2):
        x = module.blocks[0].read(x, inputs[1], place)
    torch.testing.assert_close(module(*inputs), x[0] - start)


def test_equal_tokens_have_a_squared_cosine_of_one_and_orthogonal_ones_of_zero() -> None:
    for k in (2, 7, 40):  # fewer and more than the width
        assert float(squared_cosine(noise(1, WIDTH).expand(k, -1) * torch.arange(1, k + 1)[:, None])) == pytest.approx(
            1
        )
        x = noise(k, WIDTH, seed=k)
        cosines = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
        expected = (cosines.square().sum() - k) / (k * (k - 1))
        assert float(squared_cosine(x)) == pytest.approx(float(expected), rel=1e-4)
    assert float(squared_cosine(3 * torch.eye(WIDTH))) == pytest.approx(0, abs=1e-6)
    assert float(squared_cosine(noise(1, WIDTH))) == pytest.approx(0, abs=1e-6)


def test_losses_are_those_of_the_tokens_and_of_training_alone() -> None:
    compressor = moved(ortho=0.5)
    tokens = compressor(video()).tokens
    losses = compressor.train()(video()).losses
    assert losses.keys() == {"ortho"} and compressor.eval()(video()).losses == {}
    assert losses["ortho"].item() == pytest.approx(0.5 * squared_cosine(tokens.features).item(), rel=1e-4)
    assert moved(ortho=0.0).train()(video()).losses == {}
    assert moved(rebuild=0.1).train()(video()).losses.keys() == {"rebuild", "ortho"}


def test_the_losses_fall_without_labels() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("prototypes", 0.1, dim=WIDTH, ortho=0.5, rebuild=0.5).train()
    optimizer, history = torch.optim.AdamW(compressor.parameters(), lr=3e-3), []
    for _ in range(20):
        optimizer.zero_grad()
        losses = compressor(video()).losses
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in ("rebuild", "ortho"):
        assert history[-1][name] < 0.9 * history[0][name], (name, history)


@pytest.mark.parametrize("setting", [*SETTINGS, {"rebuild": 0.1}])
def test_every_parameter_has_a_gradient_within_two_steps(setting: dict[str, Any]) -> None:
    check_gradients_within_two_steps(framefold.build("prototypes", 0.2, dim=WIDTH, **setting), video())


def test_weights_are_made_on_the_meta_device_at_every_width() -> None:
    for width in (3584, 8192):
        compressor = framefold.build("prototypes")
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        least = 2 * width * 512 + 12 * 512**2
        assert least < sum(p.numel() for p in compressor.parameters()) < 1.05 * least


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"spatial": 0, "passes": 0, "ortho": -1.0, "rebuild": -1.0, "inner": 0}.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("prototypes", **{name: value})
    with pytest.raises(InputError, match="width 16"):
        moved()(VideoTokens.from_grid(noise(4, 2, 2, 8)))
