"""Tango: selection from clusters, rotary distances, merging over frames, and values at their own anchors."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.tango import TangoSettings, default_sections, rotate, salient_points
from framefold.errors import ConfigError, InputError
from tests.support.videos import noise, synthetic


def video_of(x: torch.Tensor, times: torch.Tensor | None = None, seed: int = 5) -> VideoTokens:
    attention = torch.rand(x.shape[:3], generator=torch.Generator().manual_seed(seed))
    return VideoTokens.from_grid(x, times, attention)


def test_of_similar_attended_tokens_only_the_most_attended_is_selected() -> None:
    points = torch.nn.functional.normalize(noise(6, 32), dim=-1).repeat(2, 1) + 0.01 * noise(12, 32, seed=1)
    attention = torch.tensor([12.0, 10, 8, 6, 4, 2, 11, 9, 7, 5, 3, 1])  # pairs (i, i + 6) are neighbours in both
    for count in (2, 3):
        kept = salient_points(points, attention, count, 2.0, 7)
        assert sorted(kept.tolist()) == list(range(count))
    assert salient_points(points, attention, 4, 1.0, 7).tolist() == [0, 6, 1, 7]  # no more candidates than tokens


def test_rotation_depends_on_differences_of_positions_only() -> None:
    x = noise(1, 1, 48).expand(4, 12, 48).contiguous()
    turned = rotate(x, torch.arange(4.0), (3, 4), TangoSettings(0.8)).reshape(4, 3, 4, 48)
    product = torch.einsum("thwd,sijd->thwsij", turned, turned)
    assert torch.allclose(product[0, 0, 0, 1, 1, 2], product[2, 1, 1, 3, 2, 3], rtol=1e-4)
    assert torch.allclose(turned.norm(dim=-1), x[0, 0].norm().expand(4, 3, 4), rtol=1e-5)
    assert default_sections(3584) == (1196, 1194, 1194) and default_sections(5) == (5, 0, 0)
    odd = rotate(x[..., :5], torch.arange(4.0), (3, 4), TangoSettings(0.8))
    assert torch.equal(odd[..., 4], x[..., 4]) and not torch.allclose(odd[1:, :, :4], x[1:, :, :4])


def test_selected_tokens_are_unchanged_and_the_rest_is_merged_within_the_frame() -> None:
    x = synthetic((4, 5, 6), "noise", width=48)
    video = video_of(x)
    out = framefold.build("tango", 40)(video).tokens
    single = out.size == 1
    assert int(single.sum()) >= 4 * int(10 * 0.6) and int(out.size.sum()) == 120
    assert torch.equal(out.features[single], video.features[out.index[single]])
    frame_of = torch.arange(120) // 30
    for row in (~single).nonzero()[:, 0].tolist():
        members = (out.assign == row).nonzero()[:, 0]
        assert len(frame_of[members].unique()) == 1
        own = max(1 / len(members), 0.6)
        value = own * video.features[out.index[row]] + (1 - own) * video.features[members].mean(0)
        assert torch.allclose(out.features[row], value, atol=1e-5)


def test_tokens_beside_still_ones_are_merged_over_frames_by_their_times() -> None:
    x = noise(6, 4, 4, 48)
    x[:, 1:] = x[:1, 1:]  # 4 of 16 positions change: 4 frames have as many such tokens as a frame has positions
    x[1:, 0] = x[:1, 0] + 0.9 * x[1:, 0]  # similar, but not still
    changing, moved = torch.arange(96).reshape(6, 16)[:, :4], 0
    for k in (10, 15, 20, 25, 30):
        outs = [framefold.build("tango", k)(video_of(x, t * torch.arange(6.0))).tokens for t in (0.01, 50.0)]
        for out in outs:
            frames = [set(out.assign[changing[t]].tolist()) - {-1} for t in range(6)]
            assert any(frames[t] & frames[t + 1] for t in range(5))
            assert not frames[0] & frames[4] and not frames[3] & frames[5]  # not over the end of a set
        moved += not torch.equal(outs[0].assign, outs[1].assign)
    assert moved


def test_attention_sinks_are_not_selected() -> None:
    video = video_of(synthetic((3, 4, 4), "noise", width=48))
    sinks = tuple(int(p) for p in video.attention.reshape(3, 16).mean(0).topk(3).indices)
    with_sinks, without = (framefold.build("tango", 9, sinks=s, context_ratio=0.0)(video).tokens for s in ((), sinks))
    assert set((with_sinks.index % 16).tolist()) & set(sinks)
    assert not set((without.index % 16).tolist()) & set(sinks)
    with pytest.raises(InputError, match="sinks"):
        framefold.build("tango", 9, sinks=(16,))(video)


def test_the_release_misses_its_budget_and_writes_values_at_other_anchors() -> None:
    video = video_of(synthetic((4, 5, 6), "noise", width=48))
    out = framefold.build("tango", 0.22, variant="official")(video).tokens
    assert len(out) == 4 * 7 != round(0.22 * 120)
    assert not torch.equal(out.assign[out.index], torch.arange(28))  # an anchor belongs to another group
    assert len(framefold.build("tango", 0.22)(video).tokens) == 26


@pytest.mark.parametrize(
    "params", [{"context_ratio": -0.1}, {"candidate_ratio": 0.5}, {"beta": 2.0}, {"neighbours": 0}]
)
def test_parameters_out_of_range_are_refused(params: dict) -> None:
    with pytest.raises(ConfigError, match="tango"):
        framefold.build("tango", 0.1, **params)
