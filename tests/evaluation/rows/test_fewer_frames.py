"""Fewer frames for a compressor: it sees these alone, and its tokens keep their places in the complete video."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.errors import BudgetError
from framefold.evaluation.rows.controls import Blind, OneFrame
from framefold.evaluation.rows.fewer_frames import FewerFrames

TORCH = torch.Generator().manual_seed(0)
VIDEO = VideoTokens.from_grid(torch.randn(8, 2, 2, 5, generator=TORCH), torch.arange(8.0) / 2)


def test_once_the_frames_of_the_budget_are_whole_frames() -> None:
    compressor = FewerFrames(framefold.build("pool", 1.0), 8, times=1)
    out, expected = compressor(VIDEO).tokens, framefold.build("uniform", 8)(VIDEO).tokens
    for name in ("features", "index", "assign", "size", "times"):
        assert torch.equal(getattr(out, name), getattr(expected, name)), name


def test_twice_the_frames_are_compressed_to_the_budget_of_the_complete_video() -> None:
    out = FewerFrames(framefold.build("pool", 1.0), 0.25, times=2)(VIDEO).tokens  # frames 1, 3, 5, 7 in two means
    frames = VIDEO.as_grid()
    means = torch.stack([(frames[1] + frames[3]) / 2, (frames[5] + frames[7]) / 2]).view(8, 5)
    assert torch.allclose(out.features, means) and out.grid == (8, 2, 2)
    assert out.assign.view(8, 4).tolist() == [
        [-1] * 4, [0, 1, 2, 3], [-1] * 4, [0, 1, 2, 3], [-1] * 4, [4, 5, 6, 7], [-1] * 4, [4, 5, 6, 7],
    ]  # fmt: skip
    assert set(out.index.tolist()) <= {*range(4, 8), *range(12, 16), *range(20, 24), *range(28, 32)}
    assert torch.equal(out.times, VIDEO.times)


def test_a_video_with_too_few_frames_is_refused() -> None:
    with pytest.raises(BudgetError, match="4 times the frames of the budget are 12, and a video has 8"):
        FewerFrames(framefold.build("pool", 1.0), 12, times=4)(VIDEO)


def test_frames_that_are_not_shown_change_nothing() -> None:
    compressor = FewerFrames(framefold.build("st_simdiff", 1.0), 0.25, times=2)
    other = VIDEO.features.clone().view(8, 2, 2, 5)
    other[::2] = 100.0
    out, changed = compressor(VIDEO).tokens, compressor(VideoTokens.from_grid(other, VIDEO.times)).tokens
    assert torch.equal(out.features, changed.features) and torch.equal(out.index, changed.index)
    assert compressor.tower_share(out) == 0.5


def test_controls_show_the_frame_in_the_middle_and_nothing() -> None:
    one, none = OneFrame()(VIDEO).tokens, Blind()(VIDEO).tokens
    assert one.index.tolist() == [16, 17, 18, 19] and torch.equal(one.features, VIDEO.features[16:20])
    assert len(none) == 1 and not none.features.any() and bool((none.assign == -1).all())
