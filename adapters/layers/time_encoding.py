"""When a token was seen, as numbers that a linear layer can read: for methods whose attention has no positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens

OCTAVES = 8

TIME_FEATURES = 4 * OCTAVES


def time_features(video: VideoTokens) -> Tensor:
    """(N, TIME_FEATURES) float32 sines and cosines of each token's time.

    Half of them of the time relative to the video's length (waves of 4 lengths and shorter, so that "early" and "late"
    are plain directions), half of the seconds (waves of 4, 8, ... 512 s, which hold across videos).
    """
    seconds = video.times - video.times[0]
    relative = seconds / seconds[-1].clamp(min=torch.finfo(seconds.dtype).tiny)
    octave = 2.0 ** torch.arange(OCTAVES, device=seconds.device)
    phase = torch.cat([relative[:, None] * octave / 4, seconds[:, None] / (4 * octave)], -1) * (2 * math.pi)
    waves = torch.cat([phase.sin(), phase.cos()], -1)
    return waves[video.index // video.per_frame]
