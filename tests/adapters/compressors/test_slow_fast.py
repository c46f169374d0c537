"""slow_fast: the budget of both parts, anchors, and LITA's tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.slow_fast import lita_tokens
from framefold.errors import ConfigError
from tests.support.videos import noise


def compress(x: torch.Tensor, budget: float | int = 0.25, **params) -> VideoTokens:
    return framefold.build("slow_fast", budget, **params)(VideoTokens.from_grid(x)).tokens


def test_exact_at_the_size_of_lita_has_the_tokens_of_lita() -> None:
    """100 frames of 16 x 16 tokens: 100 means and 4 frames of 64 squares, of frames at another place."""
    x = noise(100, 16, 16, 4)
    out = compress(x, 356)
    means = x.mean((1, 2))
    assert sum(bool((out.features - mean).abs().amax(1).lt(1e-5).any()) for mean in means) == 100
    slow = x[[12, 37, 62, 87]].view(4, 8, 2, 8, 2, 4).mean((2, 4)).reshape(-1, 4)
    assert all(bool((out.features - token).abs().amax(1).lt(1e-5).any()) for token in slow)
    assert sorted(out.size.tolist())[-96:] == [256] * 96


@pytest.mark.parametrize("grid", [(7, 4, 4), (4, 5, 3), (2, 4, 2), (1, 3, 3), (5, 1, 4), (9, 2, 1)])
def test_official_gives_the_released_tokens(grid: tuple[int, int, int]) -> None:
    x = noise(*grid, 6)
    out = compress(x, 0.1, variant="official")
    if min(grid[1:]) > 1:
        released = lita_tokens(x)
        slow = min(4, grid[0])
        kept = released.unique(dim=0) if grid[0] < 4 else released
        assert len(out) == grid[0] + slow * (grid[1] // 2) * (grid[2] // 2)
        assert len(kept) == len(out) and all(bool((kept - row).abs().amax(1).lt(1e-5).any()) for row in out.features)
    else:
        assert len(out) == grid[0]
    assert bool((out.index.diff() > 0).all()) and int(out.size.sum()) == len(out.assign)
    assert torch.equal(out.assign[out.index], torch.arange(len(out)))


def test_originals_count_to_the_rectangle_and_to_the_run_otherwise() -> None:
    x = noise(8, 4, 4, 6)
    out = compress(x, 14)  # four runs of two frames, and two frames of five rectangles
    assert out.index.tolist() == sorted(out.index.tolist()) and int(out.size.sum()) == 128
    frames = out.index // 16
    assert torch.bincount(frames, minlength=8).tolist() == [1, 0, 6, 0, 1, 0, 6, 0]
    run_of_2 = int(out.assign[3 * 16])
    torch.testing.assert_close(out.features[run_of_2], x[2:4].mean((0, 1, 2)))
    assert int(out.size[run_of_2]) == 17  # all of frame 3, and its anchor in frame 2


def test_a_large_budget_moves_anchors_to_free_places() -> None:
    for k in (70, 71, 77, 78, 79):
        out = compress(noise(5, 4, 4, 6), k)
        assert len(out) == k and len(out.index.unique()) == k
    x = noise(5, 4, 4, 6)
    assert torch.equal(compress(x, 80).features, x.flatten(0, 2))


def test_fast_is_a_part_of_the_budget() -> None:
    assert torch.equal(compress(noise(8, 2, 2, 4), 4, fast_share=1.0).size, torch.full((4,), 8))
    for fast in (0.0, 1.1, -1.0):
        with pytest.raises(ConfigError, match="slow_fast"):
            framefold.build("slow_fast", fast_share=fast)
    with pytest.raises(ConfigError, match="slow_fast"):
        framefold.build("slow_fast", variant="lita")


def test_tokens_that_an_earlier_stage_merged_count_by_their_size() -> None:
    x = noise(8, 2, 3, 6)
    video = VideoTokens.from_grid(x)
    sizes = torch.arange(1, 49)
    out = framefold.build("slow_fast", 3, fast_share=1.0)(replace(video, size=sizes)).tokens
    assert int(out.size.sum()) == int(sizes.sum())
    run, weights = int(out.assign[0]), sizes.view(8, 2, 3, 1)  # three runs of frames: 0-2, 3-5, 6-7
    torch.testing.assert_close(out.features[run], (x * weights)[:3].sum((0, 1, 2)) / weights[:3].sum())
