"""Encoding of the time of each token as sines and cosines, for methods whose attention has no positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens

OCTAVES = 8

TIME_FEATURES = 4 * OCTAVES


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
