"""The released allocation and resizing of QuoTA (arXiv 2503.08689; MAC-AutoML/QuoTA @ ec194d7).

Dimensions: T frames of H x W tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .tome import tome_step


def limit_weights(weights: Sequence[float], most: float) -> list[float]:
    """Normalize weights to a sum of 1 and limit them to ``most``, as versions 2 to 5 of the release do.

    What is cut off is given to the other frames once, in order. Two faults leave a sum below 1: shares are of the sum
    after the cut, and what is cut off on the way reaches only later frames.
    """
    total = sum(weights)
    out = [weight / total for weight in weights]
    excess = 0.0
    for t, weight in enumerate(out):
        if weight > most:
            excess, out[t] = excess + weight - most, most
    rest = sum(out)
    for t, weight in enumerate(out):
        if excess > 0 and weight < most:
            out[t] += weight / rest * excess
            if out[t] > most:
                excess, out[t] = excess + out[t] - most, most
    return out


def near_square(tokens: int) -> tuple[int, int]:
    """Return the (rows, columns) of the release for a number of tokens: a x a, or (a + 1) x a if that fits."""
    side = math.isqrt(tokens)
    return (side + 1, side) if (side + 1) * side <= tokens else (side, side)


def resize_bilinear(frame: Tensor, tokens: int) -> Tensor:
    """Version 1, the one that is used: bilinear interpolation, without an upper limit.

    Args:
        frame: (H, W, D) features of a frame.
        tokens: number of tokens to which the weights entitle the frame, at least 1.

    Returns:
        (rows, columns, D) fp32 or wider.
    """
    wide = frame.to(torch.promote_types(frame.dtype, torch.float32))
    shape = near_square(tokens)
    return functional.interpolate(wide.movedim(-1, 0)[None], shape, mode="bilinear", align_corners=False)[0].movedim(
        0, -1
    )


def resize_mean(frame: Tensor, tokens: int) -> Tensor:
    """Version 2: adaptive means, to the shape of version 1; see :func:`resize_bilinear`."""
    return functional.adaptive_avg_pool2d(frame.movedim(-1, 0), near_square(tokens)).movedim(0, -1)


def resize_stride(frame: Tensor, tokens: int) -> Tensor:
    """Version 3: evenly spaced tokens, as (tokens, D); see :func:`resize_bilinear`."""
    flat = frame.flatten(0, 1)
    return flat[torch.linspace(0, len(flat) - 1, tokens, device=frame.device).long()]


def resize_tome(frame: Tensor, tokens: int) -> Tensor:
    """Version 4: rounds of ToMe without sizes, as (tokens, D); see :func:`resize_bilinear`."""
    return _merge_rounds(frame.flatten(0, 1)[None], tokens)[0]


def resize_tome_axes(frame: Tensor, tokens: int) -> Tensor:
    """Version 5: rounds of ToMe along each row and then along each column, to the shape of version 1."""
    rows, columns = near_square(tokens)
    return _merge_rounds(_merge_rounds(frame, columns).transpose(0, 1), rows).transpose(0, 1)


def _merge_rounds(x: Tensor, left: int) -> Tensor:
    while x.shape[1] > left:
        x, _, _ = tome_step(x, torch.ones_like(x[..., :1]), x, x.shape[1] - left)
    return x


RESIZERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "v1": resize_bilinear,
    "v2": resize_mean,
    "v3": resize_stride,
    "v4": resize_tome,
    "v5": resize_tome_axes,
}


def frame_tokens(weights: Sequence[float], budget: int, version: str, per_frame: int) -> list[int]:
    """Return the number of tokens to which each frame is entitled.

    Args:
        weights: weight of each frame.
        budget: number of tokens of the video.
        version: one of ``RESIZERS``; "v1" has no limit, the others are limited to the tokens of a frame.
        per_frame: tokens of a frame before resizing.
    """
    total = sum(weights)
    shares = [weight / total for weight in weights] if version == "v1" else limit_weights(weights, per_frame / budget)
    return [int(budget * share) for share in shares]
