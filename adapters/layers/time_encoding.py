"""Encoding of the time and the place of tokens as sines and cosines, for methods whose attention has no positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens

OCTAVES = 8

TIME_FEATURES = 4 * OCTAVES

SECOND_FEATURES = 2 * OCTAVES

PLACE_OCTAVES = 4

PLACE_FEATURES = 4 * PLACE_OCTAVES


def time_features(video: VideoTokens) -> Tensor:
    """Return (N, TIME_FEATURES) float32 sines and cosines of the time of each token.

    Half of them encode the time relative to the length of the video, with periods of 4 lengths and less, so that
    "early" and "late" are simple directions. The other half encode seconds, with periods of 4, 8, ... 512 s, which mean
    the same in every video.
    """
    seconds = video.times - video.times[0]
    relative = seconds / seconds[-1].clamp(min=torch.finfo(seconds.dtype).tiny)
    octave = 2.0 ** torch.arange(OCTAVES, device=seconds.device)
    phase = torch.cat([relative[:, None] * octave / 4, seconds[:, None] / (4 * octave)], -1) * (2 * math.pi)
    waves = torch.cat([phase.sin(), phase.cos()], -1)
    return waves[video.index // video.per_frame]


def second_features(video: VideoTokens) -> Tensor:
    """Return (N, SECOND_FEATURES) float32, those of :func:`time_features` that encode seconds.

    They do not depend on the length of the video, for methods that must not know how it continues.
    """
    return time_features(video)[:, [*range(OCTAVES, 2 * OCTAVES), *range(3 * OCTAVES, 4 * OCTAVES)]]


def place_features(video: VideoTokens) -> Tensor:
    """Return (N, PLACE_FEATURES) float32 sines and cosines of the place of each token in its frame.

    Rows and columns are relative to the size of the frame, with periods of 2 frames, 1, 1/2 and 1/4.
    """
    height, width = video.grid[1:]
    cell = video.index % video.per_frame
    octave = 2.0 ** torch.arange(PLACE_OCTAVES, device=cell.device)
    relative = torch.stack([(cell // width + 0.5) / height, (cell % width + 0.5) / width], -1)
    phase = (relative[..., None] * octave).flatten(1) * math.pi
    return torch.cat([phase.sin(), phase.cos()], -1)
