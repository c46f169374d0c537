"""vqtoken: its start at vq, where the members of its tokens are, and what they attend to."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.vqtoken import member_features
from framefold.adapters.core.registry import compressor_class
from framefold.adapters.layers.time_encoding import TIME_FEATURES
from framefold.errors import ConfigError
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps

WIDTH = 16
SETTINGS: list[dict[str, Any]] = [{}, {"inner": 8}, {"memory": "video"}, {"segment_frames": 4, "norm": "raw"}]


def video(t: int = 12, h: int = 3, w: int = 4, seed: int = 0) -> VideoTokens:
    return VideoTokens.from_grid(features((t, h, w), seed=seed), times=0.5 * torch.arange(t))


def clusters(params: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key in ("norm", "segment_frames", "time_weight", "rounds")}


def moved(budget: float | int = 0.2, **params: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("vqtoken", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_vq_bit_by_bit() -> None:
    for setting in SETTINGS:
        fresh, plain = framefold.build("vqtoken", **setting), framefold.build("vq", **clusters(setting))
        assert compressor_class("vqtoken").counterpart_of(setting) == ("vq", clusters(setting))
        assert fresh.params()["segment_frames"] == setting.get("segment_frames")
        for dtype, budget in itertools.product((torch.float32, torch.bfloat16, torch.float64), (1, 0.07, 0.5, 1.0)):
            with case(setting, dtype, budget):
                fresh.budget = plain.budget = budget
                clip = video().to(dtype)
                assert same(fresh(clip).tokens, plain(clip).tokens)


def test_a_query_knows_where_its_members_are() -> None:
    clip = video()
    base = framefold.build("vq", 9)(clip).tokens
    found = member_features(clip, base)
    for row in range(9):
        members = (base.assign == row).nonzero()[:, 0]
        at = torch.stack([members // 12 / 11, (members % 12 // 4 + 0.5) / 3, (members % 4 + 0.5) / 4], -1)
        spread = at.std(0, correction=0)
        expected = torch.cat([at.mean(0), spread, torch.tensor([math.log(len(members) / 16)])])
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


def test_where_members_are_changes_the_tokens() -> None:
    """At other times, the same tokens are the same clusters, but not the same queries."""
    compressor, other = moved(6), VideoTokens.from_grid(features((12, 3, 4)), times=torch.arange(12) ** 2.0)
    network = compressor.resampler
    network.place.weight.data.zero_()
    network.when.weight.data[:, :TIME_FEATURES] = 0  # the times of anchors
    one, two = (compressor(clip).tokens for clip in (video(), other))
    assert torch.equal(one.assign, two.assign) and not torch.allclose(one.features, two.features, atol=1e-3)
    network.when.weight.data.zero_()
    assert torch.equal(compressor(video()).tokens.features, compressor(other).tokens.features)


def test_the_memory_is_the_codebook_or_the_video() -> None:
    """A token that moves within its cluster changes the codebook, and so all tokens; a mean that stays changes none."""
    x = features((12, 3, 4))
    base = framefold.build("vq", 9)(VideoTokens.from_grid(x)).tokens
    members = (base.assign == int(base.size.argmax())).nonzero()[:2, 0]
    y = x.flatten(0, 2).clone()
    y[members[0]] += 0.01 * y[members[1]]
    y[members[1]] -= 0.01 * y[members[1]]
    other = VideoTokens.from_grid(y.view_as(x))
    same_means = framefold.build("vq", 9)(other).tokens
    assert torch.equal(same_means.assign, base.assign)
    torch.testing.assert_close(same_means.features, base.features)
    for memory in ("codebook", "video"):
        compressor = moved(9, memory=memory, layers=2)
        change = (compressor(VideoTokens.from_grid(x)).tokens.features - compressor(other).tokens.features).abs().amax()
        assert (change.item() > 1e-4) == (memory == "video"), (memory, change)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_parameter_has_a_gradient_within_two_steps(setting: dict[str, Any]) -> None:
    check_gradients_within_two_steps(framefold.build("vqtoken", 0.2, dim=WIDTH, **setting), video())


def test_a_scaled_video_gives_scaled_tokens() -> None:
    compressor, clip = moved(), video()
    large = VideoTokens.from_grid(64 * clip.as_grid(), times=clip.times)
    torch.testing.assert_close(
        compressor(large).tokens.features, 64 * compressor(clip).tokens.features, rtol=1e-3, atol=1e-2
    )
    assert int(compressor(clip).tokens.size.sum()) == len(clip)


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"memory": "frame", "layers": 0, "norm": "cosine", "segment_frames": 0, "rounds": -1}.items():
        with case(name, value), pytest.raises(ConfigError, match=str(value) if name != "norm" else "norm"):
            framefold.build("vqtoken", **{name: value})
