"""Smaller frames: the tokens, their places and their share of a tower's work, computed by hand."""

from __future__ import annotations

import pytest
import torch

from framefold import VideoTokens
from framefold.errors import BudgetError
from framefold.evaluation.metrics.evidence import KeptEvidence
from framefold.evaluation.rows.resized import Resized, check_fits, fitting_rows

GRID = (4, 4, 4)
VIDEO = VideoTokens.from_grid(torch.arange(64.0).view(4, 4, 4, 1))


def test_a_quarter_of_the_tokens_are_means_of_two_by_two_cells_of_every_frame() -> None:
    out = Resized(16, rows=2)(VIDEO).tokens
    first = [2.5, 4.5, 10.5, 12.5]  # means of (0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13) and (10, 11, 14, 15)
    assert out.features[:, 0].tolist() == [16 * frame + value for frame in range(4) for value in first]
    assert out.index[:4].tolist() == [0, 2, 8, 10] and out.size.tolist() == [4] * 16
    assert out.assign[:16].tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]


def test_budgets_that_are_no_whole_frames_get_evenly_spaced_cells_of_one_more() -> None:
    out = Resized(6, rows=2)(VIDEO).tokens  # frames 1 and 3, the middles of two halves: all of 1, two cells of 3
    assert len(out) == 6 and out.index.tolist() == [16, 18, 24, 26, 50, 58]
    kept = KeptEvidence.of(out)
    corner = torch.zeros(64, dtype=torch.bool)
    corner[16] = True
    assert kept.recall(corner.numpy()) == 1.0 and kept.purity(corner.numpy()) == 0.25
    assert int((out.assign >= 0).sum()) == 24


def test_a_side_that_does_not_divide_the_frame_covers_it_once() -> None:
    out = Resized(36, rows=3)(VIDEO).tokens
    assert len(out) == 36 and int(out.size.sum()) == 64 and out.size[:9].tolist() == [4, 2, 2, 2, 1, 1, 2, 1, 1]
    assert torch.equal(out.index, out.index.sort().values)


def test_the_smallest_side_has_room_for_the_tokens_of_every_video() -> None:
    assert [fitting_rows([GRID], budget) for budget in (64, 37, 36, 17, 16, 5, 4)] == [4, 4, 3, 3, 2, 2, 1]
    assert fitting_rows([(4, 4, 4), (2, 4, 4)], 9) == 3, "the short video has two frames"
    assert fitting_rows([(4, 4, 8)], 32) == 2, "2 x 4 cells: the aspect is preserved"
    with pytest.raises(BudgetError, match="4 frames of 2 x 2 tokens have 16, fewer than the budget's 17"):
        check_fits([GRID], 17, 2)


def test_a_tower_encodes_the_pixels_of_the_frames_that_are_shown() -> None:
    assert Resized(16, rows=2).tower_share(Resized(16, rows=2)(VIDEO).tokens) == 0.25
    assert Resized(6, rows=2).tower_share(Resized(6, rows=2)(VIDEO).tokens) == 2 * 4 / 64
