"""The frames of a dense video, (P, D) each, one by one and as often as needed: a frame fits the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens


class Frames:
    """The frames of a dense video, (P, D) each, one by one and as often as needed: a frame fits the cache.

    Args:
        native: as they are; otherwise in fp32.
        rescale: times a power of two where the squares would overflow or vanish in fp32. That changes no digit, so
            that neither the scale of the features nor their dtype decides what is kept.
    """

    def __init__(self, video: VideoTokens, native: bool = False, rescale: bool = False) -> None:
        self.video = video.features.reshape(video.grid[0], video.per_frame, video.width)
        self.dtype = self.video.dtype if native else torch.float32
        self.exponent = 0
        if rescale:
            low, high = torch.aminmax(self.video)
            exponent = math.frexp(max(-float(low), float(high)))[1]
            self.exponent = exponent if abs(exponent) > 20 else 0

    def __iter__(self) -> Iterator[Tensor]:
        half = -self.exponent // 2
        for frame in self.video:
            if self.exponent:  # in two steps, since 2^1074 is no double
                frame = frame.double() * 2.0**half * 2.0 ** (-self.exponent - half)
            yield frame.to(self.dtype)


def normalize(x: Tensor, floor: float) -> Tensor:
    """(P, D) rows of length 1; a norm below ``floor`` counts as ``floor``, so a zero row stays zero."""
    info = torch.finfo(x.dtype)  # as an fp16 number the floor may be 0, and 0 / 0 has no rank
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(max(floor, info.tiny * info.eps))


TINY = 1e-15  # shorter vectors count as zero: their squares would vanish in fp32


@dataclass(frozen=True)
class Similarities:
    """Cosine similarity of neighbours; a zero vector has similarity 0 with everything.

    Attributes:
        temporal: (T, H, W) with the same cell of the previous frame; frame 0 holds 1.
        right: (T, H, W) with the next cell of the row; the last column holds -1.
        bottom: (T, H, W) with the same cell of the next row; the last row holds -1.
        inverse: (T, H, W) 1 / |x|, and 0 for a zero vector.
    """

    temporal: Tensor
    right: Tensor
    bottom: Tensor
    inverse: Tensor


def similarities(video: Tensor) -> Similarities:
    """Similarities of neighbouring tokens in one pass.

    Args:
        video: (T, H, W, D) features of any floating dtype, as :func:`moderate` returns them.
    """
    t, h, w, _ = video.shape
    temporal, right, bottom = (video.new_empty((t, h, w), dtype=torch.float32) for _ in range(3))
    norm = torch.empty_like(temporal)
    previous = None
    for i, frame in enumerate(video):
        x = frame.float()
        norm[i] = torch.linalg.vector_norm(x, dim=-1)
        right[i, :, :-1] = (x[:, 1:] * x[:, :-1]).sum(-1)
        bottom[i, :-1] = (x[1:] * x[:-1]).sum(-1)
        if previous is not None:
            temporal[i] = (x * previous).sum(-1)
        previous = x
    inverse = torch.where(norm > TINY, 1 / norm, 0)
    temporal[1:] *= inverse[1:] * inverse[:-1]
    right[:, :, :-1] *= inverse[:, :, 1:] * inverse[:, :, :-1]
    bottom[:, :-1] *= inverse[:, 1:] * inverse[:, :-1]
    temporal[0], right[:, :, -1], bottom[:, -1] = 1, -1, -1
    return Similarities(temporal, right, bottom, inverse)


def moderate(video: Tensor) -> Tensor:
    """The video itself, or divided by its largest magnitude where squares in fp32 would overflow or vanish."""
    low, high = torch.aminmax(video)
    peak = max(-float(low), float(high))
    if peak == 0 or 1e-10 <= peak <= 1e10:
        return video
    return (video.to(torch.promote_types(video.dtype, torch.float32)) / peak).float()
