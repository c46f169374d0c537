"""static_mean: segments as released, first frames unchanged, and runs of the tokens that follow."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.tdc import neighbour_cosines, segment_ends
from framefold.errors import ConfigError
from tests.support.videos import noise


def compress(x: torch.Tensor, budget: float | int, **params) -> VideoTokens:
    return framefold.build("static_mean", budget, **params)(VideoTokens.from_grid(x)).tokens


def scenes(*lengths: int) -> torch.Tensor:
    """(T, 2, 3, 8) frames that hardly change in scenes of the given lengths."""
    still = torch.cat([noise(1, 2, 3, 8, seed=i).expand(n, 2, 3, 8) for i, n in enumerate(lengths)])
    return still + 0.1 * noise(*still.shape, seed=99)


def test_first_frames_of_the_released_segments_are_kept_bit_for_bit() -> None:
    x = scenes(9, 4, 12)
    out = compress(x, 33)  # floor(0.55 * 33 / 6) = 3
    ends = segment_ends(neighbour_cosines(x), 2)
    assert ends == [8, 12]
    starts = torch.tensor([0, 9, 13])
    kept = (starts[:, None] * 6 + torch.arange(6)).reshape(-1)
    rows = out.assign[kept]
    assert torch.equal(out.index[rows], kept) and bool((out.size[rows] == 1).all())
    assert torch.equal(out.features[rows], x.flatten(0, 2)[kept])


def test_the_tokens_that_follow_are_averaged_in_runs_of_their_segment() -> None:
    x = scenes(9, 4, 12)
    out, tokens = compress(x, 33), x.flatten(0, 2)
    segment = torch.tensor([0] * 9 + [1] * 4 + [2] * 12).repeat_interleave(6)
    # 15 tokens for 8, 3 and 11 frames that follow: floor(15 * 48 / 132) = 5, 15 * 66 // 132 = 7
    runs = torch.bincount(segment[out.index]) - 6
    assert runs.tolist() == [5, 2, 8]
    for row in range(33):
        members = (out.assign == row).nonzero()[:, 0]
        assert bool((members.diff() == 1).all()) and len(segment[members].unique()) == 1
        torch.testing.assert_close(out.features[row], tokens[members].mean(0))
    assert int(out.size.sum()) == 150


def test_a_change_inside_a_segment_changes_no_token_of_another() -> None:
    x = scenes(9, 4, 12)
    before = compress(x, 33)
    x[20] += 0.01 * noise(2, 3, 8, seed=5)
    after = compress(x, 33)
    same = (before.features == after.features).all(1)
    assert torch.equal(before.index, after.index)
    assert bool(same[before.index < 13 * 6].all()) and not bool(same.all())


def test_tokens_of_a_segment_too_short_for_a_run_are_dropped() -> None:
    out = compress(scenes(2, 38), 22)  # 10 tokens for 1 and 37 frames that follow
    assert (out.assign.view(40, 6) < 0).all(1).nonzero()[:, 0].tolist() == [1]
    assert len(out) == 22 and int(out.size.sum()) == 39 * 6


def test_a_budget_without_a_whole_frame_gives_runs_only() -> None:
    out = compress(noise(6, 2, 3, 8), 10)
    assert torch.equal(out.assign, torch.arange(36) * 10 // 36)
    assert torch.equal(compress(noise(6, 2, 3, 8), 24, static_share=0.0).assign, torch.arange(36) * 24 // 36)


def test_equal_frames_end_no_segment_before_different_ones() -> None:
    x = noise(1, 2, 3, 8).expand(12, 2, 3, 8).clone()
    x[7:] = x[7:] * -1
    starts = framefold.build("static_mean").starts(VideoTokens.from_grid(x), 3)
    assert starts.tolist() == [0, 1, 7]  # of equal changes, the earlier one
    for share in (1.0, -0.1):
        with pytest.raises(ConfigError, match="static_mean"):
            framefold.build("static_mean", static_share=share)
