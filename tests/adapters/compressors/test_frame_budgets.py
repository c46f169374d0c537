"""kffocus, quota and tempo_ata: how many tokens frames and segments get, and the rules of the releases."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.quota import frame_tokens, near_square
from framefold.adapters.reference.tempo_ata import allocate_as_released
from framefold.errors import ConfigError
from tests.support.cases import case
from tests.support.contract import check_tokens, features, wrap
from tests.support.videos import noise

GRID = (6, 3, 4)
QUESTION = noise(5, 16, seed=9)


def counts(name: str, budget: int, scores: list[float], grid: tuple[int, int, int] = GRID, **params) -> list[int]:
    """Number of anchors in each frame for given scores."""
    compressor = framefold.build(name, budget, **params)
    out = compressor.score_with(torch.tensor(scores))(wrap(features(grid)), QUESTION).tokens  # type: ignore[operator]
    check_tokens(out, grid)
    return torch.bincount(out.index // out.per_frame, minlength=grid[0]).tolist()


def test_kffocus_gives_a_changed_frame_of_a_still_video_all_its_tokens() -> None:
    x = features(GRID, "constant")
    x[3:] = features(GRID, "random")[3]
    out = framefold.build("kffocus", 24)(wrap(x)).tokens
    assert out.index.tolist() == [*range(12, 24), *range(48, 60)]  # frame 0 is as new as frame 3; middles of the parts
    assert out.size.tolist() == [3] * 24
    torch.testing.assert_close(out.features, torch.cat([x[0], x[3]]).reshape(24, 16))
    still = framefold.build("kffocus", 30)(wrap(features(GRID, "constant"))).tokens
    assert torch.bincount(still.index // 12).tolist() == [5] * 6


def test_shares_follow_the_scores_up_to_whole_frames() -> None:
    assert counts("kffocus", 20, [1, 1, 2, 4, 1, 1]) == [2, 2, 4, 8, 2, 2]
    assert counts("kffocus", 40, [1, 1, 2, 9, 1, 1]) == [5, 5, 9, 12, 5, 4]  # 28 tokens for five frames: 4 2/3, 9 1/3
    assert counts("kffocus", 20, [1, 1, 2, 4, 1, 1], power=0.0) == [4, 4, 3, 3, 3, 3]
    assert counts("kffocus", 20, [0, 0, 0, 1, 0, 0], floor=1.0) == [2, 2, 2, 12, 1, 1]
    assert counts("quota", 15, [0, 2, 0, 3, 1, 1]) == [0, 4, 0, 9, 1, 1]
    assert counts("quota", 72, [0, 0, 0, 1, 0, 0]) == [12] * 6


def test_quota_without_given_scores_asks_the_question() -> None:
    x = features(GRID)
    x[4, 1, 2] = QUESTION[2]
    out = framefold.build("quota", 12)(wrap(x), QUESTION).tokens
    assert torch.bincount(out.index // 12).argmax() == 4


def test_quota_official_rounds_down_twice() -> None:
    scores = [0.1, 0.4, 0.0, 0.9, 0.55, 0.2]
    tokens = frame_tokens([score**2 for score in scores], 40, "v1", 12)
    expected = [min(rows, 3) * min(columns, 4) for rows, columns in map(near_square, tokens)]
    assert counts("quota", 40, scores, variant="official") == expected == [0, 4, 0, 12, 9, 1]
    assert counts("quota", 2, [1, 1, 1.1, 1, 1, 1], variant="official") == [0, 0, 1, 0, 0, 0]
    assert counts("quota", 24, [0.0] * 6, variant="official") == [4] * 6
    with pytest.raises(ConfigError, match="no other parameters"):
        framefold.build("quota", variant="official", power=1.0)


def test_quota_official_returns_the_frame_where_sizes_agree() -> None:
    x = features((4, 3, 3))
    official = framefold.build("quota", 9, variant="official").score_with(torch.tensor([0.0, 0, 1, 0]))  # type: ignore[operator]
    out = official(VideoTokens.from_grid(x), QUESTION).tokens
    torch.testing.assert_close(out.features, x[2].reshape(9, 16))
    assert out.index.tolist() == list(range(18, 27)) and out.size.tolist() == [1] * 9
    more = framefold.build("quota", 36, variant="official").score_with(torch.tensor([0.0, 0, 1, 0]))  # type: ignore[operator]
    doubled = more(VideoTokens.from_grid(x), QUESTION).tokens  # to 6 x 6, of which four share each place
    assert doubled.index.tolist() == list(range(18, 27))
    large = torch.nn.functional.interpolate(x[2].movedim(-1, 0)[None], (6, 6), mode="bilinear")
    united = torch.nn.functional.avg_pool2d(large, 2)[0].movedim(0, -1)
    torch.testing.assert_close(doubled.features, united.reshape(9, 16))


def test_tempo_divides_between_its_limits() -> None:
    grid = (8, 3, 4)
    segments = {"segment_frames": 2, "fill": "random"}  # four segments of 24 tokens

    def of_segments(budget: int, scores: list[float], **params) -> list[int]:
        return torch.tensor(counts("tempo_ata", budget, scores, grid, **segments, **params)).view(4, 2).sum(1).tolist()

    assert of_segments(40, [0, 1, 1, 2]) == [4, 10, 10, 16]
    assert of_segments(40, [0, 1, 1, 2], max_tokens=12) == [4, 12, 12, 12]
    assert of_segments(60, [0, 1, 1, 2], max_tokens=12) == [4, 16, 16, 24]  # 4 * 12 tokens would be too few
    assert of_segments(10, [0, 1, 1, 2]) == [2, 3, 2, 3]
    assert of_segments(2, [0, 1, 1, 2]) == [0, 1, 0, 1]
    assert of_segments(30, [0.3] * 4) == [8, 8, 7, 7]
    assert of_segments(96, [0, 1, 1, 2]) == [24] * 4


def test_tempo_official_keeps_what_the_release_allocates() -> None:
    scores, grid = [0.1, 0.4, 0.9], (24, 2, 2)
    for budget in (12, 20, 60):
        with case(budget):
            expected = [min(tokens, 32) for tokens in allocate_as_released(scores, budget)]
            found = counts("tempo_ata", budget, scores, grid, variant="official", fill="random")
            assert torch.tensor(found).view(3, 8).sum(1).tolist() == expected
    assert sum(counts("tempo_ata", 2, [0.5] * 3, grid, variant="official")) == 1
    with pytest.raises(ConfigError, match="limits"):
        framefold.build("tempo_ata", min_tokens=9, max_tokens=8)
