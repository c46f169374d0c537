"""Differential token drop of TimeChat-Online (arXiv 2504.17343; yaolinli/TimeChat-Online @ 25a1578).

Dimensions: T frames of P tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.ops.similarity import normalize


def dtd_by_features(features: Tensor, threshold: float, drop_share: float | None = None) -> Tensor:
    """Return (T, P) bool, the tokens that are kept: those unlike the same position in the previous frame.

    The first frame is kept. The previous frame is used even if its token was dropped.

    Args:
        features: (T, P, D) features.
        threshold: cosine similarity above which a token is dropped.
        drop_share: if given, the fraction of each frame that is dropped instead, the most similar tokens.
    """
    frames, p, _ = features.shape
    similarity = torch.zeros(frames - 1, p, device=features.device)
    previous = None
    for t, frame in enumerate(features):
        unit = normalize(frame.float(), 1e-8)
        if previous is not None:
            similarity[t - 1] = (unit * previous).sum(-1)
        previous = unit
    return _kept(-similarity, similarity > threshold, drop_share)


def dtd_by_pixels(
    pixels: Tensor, mean: Tensor, std: Tensor, threshold: float, drop_share: float | None = None
) -> Tensor:
    """Return (T, P) bool, the tokens that are kept by the pixels of their patches.

    The first image of the previous frame is compared with the last one of this frame.

    Args:
        pixels: (T, 2, P, 3, n) normalized pixels of the patch of each token in the two images of each frame.
        mean: (3,) of the normalization.
        std: (3,) of the normalization.
        threshold: mean absolute difference of pixels in [0, 1] below which a token is dropped.
        drop_share: see :func:`dtd_by_features`.
    """
    plain = pixels.float() * std[:, None] + mean[:, None]
    difference = (plain[:-1, 0] - plain[1:, 1]).abs().mean((-1, -2))
    return _kept(difference, difference < threshold, drop_share)


def _kept(change: Tensor, dropped: Tensor, drop_share: float | None) -> Tensor:
    """Return (T, P) bool from the (T - 1, P) changes of all frames but the first."""
    if drop_share is not None:
        count = int(drop_share * change.shape[1])
        order = torch.sort(change, dim=1, stable=True).indices[:, :count]
        dropped = torch.zeros_like(dropped).scatter_(1, order, True)
    return torch.cat([dropped.new_ones(1, change.shape[1]), ~dropped])
