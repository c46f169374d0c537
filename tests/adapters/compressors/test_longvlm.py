"""longvlm: segments, the released number of tokens, and what is compared."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.errors import ConfigError, InputError
from tests.support.videos import noise, synthetic


def compress(x: torch.Tensor, budget: float | int = 0.25, **params) -> VideoTokens:
    return framefold.build("longvlm", budget, **params)(VideoTokens.from_grid(x)).tokens


def test_official_leaves_30_tokens_of_a_segment_and_exact_merges_the_same_pairs() -> None:
    x = synthetic((10, 16, 16), "noise", width=32)
    official, exact = compress(x, 0.5, variant="official"), compress(x, 30)
    assert len(official) == 30 and torch.equal(official.assign, exact.assign)
    torch.testing.assert_close(official.features, exact.features)
    two = compress(torch.cat([x, x.flip(0)]), 0.5, variant="official")
    assert len(two) == 60 and torch.equal(two.assign[:2560], official.assign)
    with pytest.raises(InputError, match="multiple of 10 frames, got 9"):
        compress(x[:9], variant="official")


def test_segments_do_not_affect_each_other_and_share_the_budget_by_their_lengths() -> None:
    x = noise(25, 2, 3, 8)  # segments of 9, 8 and 8 frames
    before = compress(x, 50)
    segment = torch.arange(25) * 3 // 25
    assert torch.equal(segment[before.index // 6][before.assign], segment.repeat_interleave(6))
    assert torch.bincount(segment[before.index // 6]).tolist() == [18, 16, 16]
    x[12] = noise(2, 3, 8, seed=1)
    after = compress(x, 50)
    assert torch.equal(after.assign[:54], before.assign[:54]) and not torch.equal(after.assign, before.assign)


def test_the_budget_of_a_segment_too_short_for_a_token_goes_to_the_next_one() -> None:
    assert len(compress(noise(3, 1, 1, 8), 2, segment_frames=2)) == 2


def test_means_of_channel_groups_are_compared() -> None:
    x = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]]).view(1, 1, 4, 4)
    assert compress(x, 3, groups=1).assign.tolist() == [0, 1, 2, 0]
    assert compress(x, 3, groups=2).assign.tolist() == [0, 0, 1, 2]  # channels 0 and 2 count as one


def test_parameters_out_of_range_are_refused() -> None:
    for params in ({"variant": "paper"}, {"segment_frames": 0}, {"groups": 0}):
        with pytest.raises(ConfigError, match="longvlm"):
            framefold.build("longvlm", **params)
