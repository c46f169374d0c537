"""trajtok: its start at vq, soft clusters, and segments."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16
SETTINGS: list[dict[str, Any]] = [{}, {"segment_frames": 4}, {"norm": "raw"}]


def video(t: int = 12, h: int = 3, w: int = 4, seed: int = 0) -> VideoTokens:
    return VideoTokens.from_grid(features((t, h, w), seed=seed))


def moved(budget: float | int = 0.2, **params: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("trajtok", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_vq_bit_by_bit() -> None:
    for setting in SETTINGS:
        fresh, plain = framefold.build("trajtok", **setting), framefold.build("vq", **setting)
        for dtype, budget in itertools.product((torch.float32, torch.bfloat16, torch.float64), (1, 0.07, 0.5, 1.0)):
            with case(setting, dtype, budget):
                fresh.budget = plain.budget = budget
                clip = video().to(dtype)
                assert same(fresh(clip).tokens, plain(clip).tokens)
                with torch.autocast("cpu", torch.bfloat16):
                    assert same(fresh(clip).tokens, plain(clip).tokens)


def test_tokens_are_means_by_membership() -> None:
    """The rule of the docstring, token by token, for one segment and for three."""
    for setting in ({}, {"segment_frames": 4}):
        compressor, clip = moved(9, **setting), video()
        base = framefold.build("vq", 9, **setting)(clip).tokens
        part = torch.arange(12).div(4, rounding_mode="floor") if setting else torch.zeros(12, dtype=torch.long)
        of_token, of_cluster = part.repeat_interleave(12), part[base.index // 12]

        def place(x: torch.Tensor, compressor: Any = compressor) -> torch.Tensor:
            unit = x / x.square().mean(-1, keepdim=True).sqrt()
            changed = unit + compressor.network(unit)
            return changed / changed.norm(dim=-1, keepdim=True)

        logits = compressor.log_scale.exp() * place(clip.features) @ place(base.features).T
        logits = logits.masked_fill(of_token[:, None] != of_cluster, -torch.inf)
        membership = logits.softmax(1)
        soft = membership.T @ clip.features / membership.sum(0)[:, None]
        expected = base.features + compressor.blend * (soft - base.features)
        out = compressor(clip).tokens
        torch.testing.assert_close(out.features, expected, atol=1e-5, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(compressor(clip).tokens.features, out.features)
        assert torch.equal(out.assign, base.assign) and int(out.size.sum()) == len(clip)


def test_a_frame_outside_the_segment_changes_nothing() -> None:
    compressor, x = moved(12, segment_frames=4), features((12, 3, 4))
    first = compressor(VideoTokens.from_grid(x)).tokens
    for frame, changes in ((11, False), (5, False), (2, True)):
        y = x.clone()
        y[frame] += noise(3, 4, WIDTH, seed=frame)
        out = compressor(VideoTokens.from_grid(y)).tokens
        own = first.index < 4 * 12
        assert int((out.index < 4 * 12).sum()) == int(own.sum())
        assert torch.equal(out.features[: int(own.sum())], first.features[own]) != changes, frame


def test_an_object_that_moves_keeps_one_token() -> None:
    x = (noise(WIDTH, seed=1) + 0.01 * noise(8, 4, 4, WIDTH, seed=2)).clone()
    for frame in range(8):
        x[frame, frame % 4, frame // 2] = noise(WIDTH, seed=3) + 0.01 * noise(WIDTH, seed=frame)
    out = framefold.build("trajtok", 2)(VideoTokens.from_grid(x)).tokens
    row = int(out.size.argmin())
    assert out.size[row] == 8 and sorted((out.assign == row).nonzero()[:, 0].tolist()) == [
        16 * frame + 4 * (frame % 4) + frame // 2 for frame in range(8)
    ]


def test_every_parameter_has_a_gradient_within_two_steps() -> None:
    check_gradients_within_two_steps(framefold.build("trajtok", 0.2, dim=WIDTH), video())


def test_an_untrained_network_hardly_moves_tokens() -> None:
    """The space starts near that of the tokens, so that the first soft clusters are not random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("trajtok", 0.2, dim=64)
    x = noise(200, 64)
    cosine = (compressor.embed(x) * torch.nn.functional.normalize(x, dim=-1)).sum(-1)
    assert 0.99 < cosine.mean().item() < 1 - 1e-5


def test_a_scaled_video_gives_scaled_tokens() -> None:
    compressor, clip = moved(), video()
    large = compressor(VideoTokens.from_grid(1024 * clip.as_grid())).tokens.features
    torch.testing.assert_close(large, 1024 * compressor(clip).tokens.features, rtol=1e-4, atol=1e-2)


def test_weights_are_made_on_the_meta_device_and_are_few() -> None:
    for width in (3584, 8192):
        compressor = framefold.build("trajtok")
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        assert sum(p.numel() for p in compressor.parameters()) == 2 * 512 * width + 512 + 1 + width


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"inner": 0, "dim": 2**40, "rounds": -1}.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("trajtok", **{name: value})
    with pytest.raises(InputError, match="width 16"):
        moved()(VideoTokens.from_grid(noise(4, 2, 2, 8)))
