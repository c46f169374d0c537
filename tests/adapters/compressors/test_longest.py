"""longest: lengths of every magnitude and dtype are ranked; ties go to the lower index."""

from __future__ import annotations

import torch

from tests.support.videos import DTYPES, kept_rows, noise


def test_the_longest_tokens_of_the_whole_video_are_kept() -> None:
    x = noise(6, 2, 3, 8)
    longest = sorted(x.reshape(36, 8).norm(dim=-1).topk(9).indices.tolist())
    assert kept_rows("longest", x, 9) == longest
    for factor in (1e-30, 1e25):
        assert kept_rows("longest", x * factor, 9) == longest
    for dtype in DTYPES:
        ours = x.to(dtype).double().reshape(36, 8).norm(dim=-1)
        assert kept_rows("longest", x.to(dtype), 9) == sorted(ours.topk(9).indices.tolist())


def test_equal_lengths_go_to_the_lower_index() -> None:
    x = torch.ones(3, 1, 4, 2)
    x[2, 0, 1] = 2
    assert kept_rows("longest", x, 3) == [0, 1, 9]
