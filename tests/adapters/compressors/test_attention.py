"""attention and attention_low: the two ends of one order."""

from __future__ import annotations

import torch

import framefold
from framefold import VideoTokens
from tests.support.videos import noise


def test_the_most_and_the_least_attended_tokens_of_the_whole_video_are_kept() -> None:
    attention = torch.tensor([[0.3, 0.1], [0.1, 0.0], [0.9, 0.3]]).half()
    video = VideoTokens.from_grid(noise(3, 1, 2, 4), attention=attention[:, None])
    kept = {
        (name, k): framefold.build(name, k)(video).tokens.index.tolist()
        for name in ("attention", "attention_low")
        for k in (2, 3, 5)
    }
    assert [kept["attention", k] for k in (2, 3, 5)] == [[0, 4], [0, 4, 5], [0, 1, 2, 4, 5]]
    assert [kept["attention_low", k] for k in (2, 3, 5)] == [[1, 3], [1, 2, 3], [0, 1, 2, 3, 5]]
