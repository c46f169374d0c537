"""Encodings of time and place of tokens."""

from __future__ import annotations

import math

import torch

from framefold import VideoTokens
from framefold.adapters.layers.time_encoding import PLACE_FEATURES, PLACE_OCTAVES, place_features
from tests.support.videos import noise


def test_places_are_told_apart_in_every_frame_and_grid() -> None:
    video = VideoTokens.from_grid(noise(3, 14, 9, 4))
    found = place_features(video)
    assert found.shape == (3 * 14 * 9, PLACE_FEATURES)
    assert torch.equal(found[: 14 * 9], found[2 * 14 * 9 :])  # they do not depend on the frame
    assert float(torch.pdist(found[: 14 * 9]).min()) > 0.1
    kept = video.keep(torch.tensor([5, 130, 300]))
    assert torch.equal(place_features(kept), found[kept.index])


def test_places_are_relative_to_the_frame() -> None:
    """The lowest octave turns by half a circle over a frame, of any size; a cell is at its middle."""
    for height, width in ((1, 2), (4, 8)):
        found = place_features(VideoTokens.from_grid(noise(1, height, width, 4)))
        row, column = math.pi * 0.5 / height, math.pi * (width - 0.5) / width
        last = found[width - 1]  # of the first row
        assert math.isclose(float(last[0]), math.sin(row), abs_tol=1e-5)
        assert math.isclose(float(last[2 * PLACE_OCTAVES + PLACE_OCTAVES]), math.cos(column), abs_tol=1e-5)
