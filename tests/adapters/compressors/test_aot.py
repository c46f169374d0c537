"""aot: the exact rule against the steps of the release, and its transport."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.aot import absorb, cosines, merge_in_frame, sinkhorn, time_cost
from framefold.errors import ConfigError
from tests.support.cases import case
from tests.support.contract import check_tokens, features, wrap
from tests.support.videos import noise, synthetic


def clip_by_the_rule(x: Tensor, attention: Tensor, k: int, keep_ratio: float) -> tuple[list[int], Tensor]:
    """Anchors and features of one clip of a video whose anchors are the tokens of highest attention alone."""
    frames, height, width, dim = x.shape
    cells = height * width
    count = min(max(round(k / (1 + (frames - 1) * keep_ratio)), 1, k - (frames - 1) * cells), k, cells)
    order = sorted(range(cells), key=lambda place: -float(attention[0].reshape(-1)[place]))
    chosen = sorted(order[:count])
    mask = torch.zeros(1, cells, dtype=torch.bool).index_fill(1, torch.tensor(chosen), True)
    anchors = merge_in_frame(x[:1], mask.reshape(1, height, width))[mask.reshape(1, height, width)]
    flat = x.reshape(frames, cells, dim)
    plans = [
        sinkhorn(time_cost(cosines(flat[t][None], anchors[None]), torch.tensor([float(t)])))[0]
        for t in range(1, frames)
    ]
    shares = [plan / plan.sum(1, keepdim=True) for plan in plans]
    certain = torch.cat([share.amax(1) for share in shares]).tolist() if shares else []
    kept = sorted(sorted(range(len(certain)), key=lambda row: certain[row])[: k - count])
    for t, share in enumerate(shares, start=1):
        gone = [row not in {other - (t - 1) * cells for other in kept} for row in range(cells)]
        anchors = absorb(anchors, flat[t], share * torch.tensor(gone)[:, None])
    rows = chosen + [row + cells for row in kept]
    return rows, torch.cat([anchors, flat.reshape(-1, dim)[[row + cells for row in kept]]])


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4)),
    seed=st.integers(0, 99),
    part=st.floats(0.1, 0.9),
    keep_ratio=st.sampled_from([0.1, 0.4, 1.0]),
)
def test_a_clip_against_the_steps_of_the_release(grid, seed, part, keep_ratio) -> None:
    x, attention = synthetic(grid, "drift", seed), noise(*grid, seed=seed + 1)
    k = max(2, round(part * attention.numel()))
    compressor = framefold.build("aot", k, keep_ratio=keep_ratio, global_ratio=1.0)
    out = compressor(VideoTokens.from_grid(x, attention=attention)).tokens
    rows, expected = clip_by_the_rule(x, attention, k, keep_ratio)
    if int((out.index < grid[1] * grid[2]).sum()) == 1 and grid[0] > 1:
        return  # every token goes to the only anchor with certainty 1: see the next test
    assert out.index.tolist() == rows
    torch.testing.assert_close(out.features, expected, atol=2e-5, rtol=1e-4)


def test_with_one_anchor_the_least_similar_tokens_are_kept() -> None:
    x = noise(8).expand(3, 2, 3, 8).clone()
    x[2, 1, 1] = noise(8, seed=5)
    out = framefold.build("aot", 2)(wrap_at(x, place=3)).tokens
    assert out.index.tolist() == [3, 16] and out.size.tolist() == [17, 1]
    assert torch.equal(out.features[1], x[2, 1, 1])
    torch.testing.assert_close(out.features[0], x[0, 0, 0])


def wrap_at(x: Tensor, place: int) -> VideoTokens:
    """A video with all attention on one place."""
    attention = torch.zeros(x.shape[:3])
    attention.flatten(1)[:, place] = 1
    return VideoTokens.from_grid(x, attention=attention)


def test_anchors_are_spread_over_windows_and_the_rest_follows_attention() -> None:
    attention = torch.arange(36.0).reshape(1, 6, 6)
    video = VideoTokens.from_grid(synthetic((1, 6, 6)), attention=attention)
    best_of_windows = {row * 6 + column for row in (1, 3, 5) for column in (1, 3, 5)}

    def kept(global_ratio: float) -> set[int]:
        return set(framefold.build("aot", 18, global_ratio=global_ratio)(video).tokens.index.tolist())

    assert kept(0.5) == best_of_windows | {24, 25, 26, 27, 28, 29, 30, 32, 34}
    assert kept(1.0) == set(range(18, 36))
    assert kept(0.0) == best_of_windows | {place - 1 for place in best_of_windows}


def test_still_videos_and_attention_of_zeros_change_nothing() -> None:
    x = features((8, 3, 4), "constant")
    for attention in (torch.zeros(8, 3, 4), noise(8, 3, 4).abs()):
        out = framefold.build("aot", 12)(VideoTokens.from_grid(x, attention=attention)).tokens
        check_tokens(out, (8, 3, 4))
        torch.testing.assert_close(out.features, x.reshape(-1, 16)[:12])
        assert int(out.size.sum()) == 96


def test_the_scale_of_the_features_does_not_matter() -> None:
    x = features((8, 3, 4))
    expected = framefold.build("aot", 20)(wrap(x)).tokens
    for scale in (2.0**-60, 2.0**60):
        with case(scale):
            out = framefold.build("aot", 20)(wrap(x * scale)).tokens
            assert torch.equal(out.index, expected.index) and torch.equal(out.assign, expected.assign)
            torch.testing.assert_close(out.features, expected.features * scale)


def test_plans_have_uniform_sums_even_where_exponentials_underflow() -> None:
    cost = 2 * noise(3, 20, 6, seed=3).abs()
    for epsilon, error in ((0.1, 1e-4), (1e-3, 1.0)):  # small entropies converge slowly
        plan = sinkhorn(cost, epsilon, iterations=500, tolerance=0.0, joint=False)
        torch.testing.assert_close(plan.sum(1), torch.full((3, 6), 1 / 6), atol=1e-5, rtol=0)
        torch.testing.assert_close(plan.sum(2), torch.full((3, 20), 1 / 20), atol=error, rtol=0)
    alone = torch.cat([sinkhorn(one[None], joint=False) for one in cost])
    assert torch.allclose(sinkhorn(cost, joint=False), alone, atol=1e-7)


def test_settings_out_of_range_are_refused() -> None:
    for params in ({"segment_frames": 0}, {"keep_ratio": 1.5}, {"global_ratio": -0.1}):
        with case(params), pytest.raises(ConfigError, match="aot"):
            framefold.build("aot", **params)
