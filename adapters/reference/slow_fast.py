"""The released slow and fast tokens of LITA (arXiv 2403.19046) and of the Slow-Fast architecture (arXiv 2504.01328).

Dimensions: T frames of H x W tokens, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LITA_SLOW_FRAMES, LITA_STRIDE = 4, 2


def lita_slow_frames(frames: int) -> list[int]:
    """Return the numbers of the slow frames, ascending; numbers repeat if there are fewer than four frames."""
    return np.linspace(0, frames - 1, LITA_SLOW_FRAMES).round().astype(int).tolist()


def lita_tokens(x: Tensor) -> Tensor:
    """Return (T + 4 (H // 2) (W // 2), D) tokens of a (T, H, W, D) video: frame means, then pooled slow frames."""
    slow = _pooled(x[lita_slow_frames(len(x))], LITA_STRIDE)
    return torch.cat([x.mean((1, 2)), slow.flatten(0, 2)])


def fast_tokens(x: Tensor, sampling: int = 1, spatial: int = 1, temporal: int = 4, least: int = 16) -> Tensor:
    """Return the (n, D) fast tokens of the Slow-Fast architecture; its slow tokens are all tokens of the video.

    Args:
        x: (T, H, W, D).
        sampling: frames of which one is sampled; a single frame is only pooled over space.
        spatial: side of the squares that are averaged.
        temporal: sampled frames that are averaged; a rest at the end is lost.
        least: number of frames that both steps leave, if there are as many.
    """
    if len(x) > 1:
        if sampling > 1 and len(x) >= least:
            count = max(len(x) // sampling, least)
            x = x[[min(int(i * (len(x) / count)), len(x) - 1) for i in range(count)]]
        whole = len(x) // temporal
        if temporal > 1 and whole >= least:
            x = x[: whole * temporal].unflatten(0, (whole, temporal)).mean(1)
        elif temporal > 1:
            series = x.flatten(1).T
            x = F.adaptive_avg_pool1d(series, min(len(x), least)).T.unflatten(1, x.shape[1:])
    return _pooled(x, spatial).flatten(0, 2)


def _pooled(x: Tensor, side: int) -> Tensor:
    """Average squares of each frame; rows and columns that do not fill a square are lost."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
