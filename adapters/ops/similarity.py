"""Normalized frames of a video and similarities of tokens, independent of scale and dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)

RESOLUTION = 2.0**-20  # of cosine similarities from matrix products, whose rounding errors then break no tie

TINY = 1e-15  # shorter vectors count as zero, because their squares would underflow in fp32


def rescale_if_extreme(video: Tensor, max_exponent: int = 20) -> Tensor:
    """Return a video, multiplied by a power of two if squares of its features could overflow or underflow in fp32.

    A power of two changes no digit, so neither the scale of the features nor their dtype affects what is selected.

    Args:
        video: (T, ...) finite features of any floating dtype, one row per frame.
        max_exponent: features whose largest magnitude is between 2^-max_exponent and 2^max_exponent are not rescaled.

    Returns:
        The video itself, or a copy in fp32 whose largest magnitude is between 1/2 and 1.
    """
    low, high = torch.aminmax(video.detach())
    exponent = math.frexp(max(-float(low), float(high)))[1]
    if abs(exponent) <= max_exponent:
        return video
    half = -exponent // 2  # in two steps, because 2^1074 exceeds the range of fp64
    out = torch.empty_like(video, dtype=torch.float32)
    for frame, target in zip(video, out, strict=True):
        target.copy_(frame.double() * 2.0**half * 2.0 ** (-exponent - half))
    return out


class Frames:
    """The frames of a dense video, (P, D) each, one at a time: one frame fits the CPU cache, a video does not.

    Args:
        video: a dense video.
        native: keep the dtype of the features; otherwise frames are fp32.
        rescale: apply :func:`rescale_if_extreme`.
    """

    def __init__(self, video: VideoTokens, native: bool = False, rescale: bool = False) -> None:
        features = video.features.reshape(video.grid[0], video.per_frame, video.width)
        self.video = rescale_if_extreme(features) if rescale else features
        self.dtype = self.video.dtype if native else torch.float32

    def __iter__(self) -> Iterator[Tensor]:
        return (frame.to(self.dtype) for frame in self.video)


def normalize(x: Tensor, floor: float) -> Tensor:
    """Return (P, D) rows of length 1; a norm below ``floor`` counts as ``floor``, so a zero row stays zero."""
    info = torch.finfo(x.dtype)  # in fp16 the floor may round to 0, and 0 / 0 is NaN
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(max(floor, info.tiny * info.eps))


def frame_changes(video: VideoTokens) -> Tensor:
    """Return (T - 1,) fp32 half squared distances of neighbouring frames, each normalized as one vector.

    That is 1 - cosine without cancellation: exactly 0 between equal frames, and 1/2 between a zero frame and another.
    """
    out, previous = [], None
    for frame in Frames(video, rescale=True):
        unit = normalize(frame.reshape(1, -1), TINY)[0]
        if previous is not None:
            out.append((unit - previous).square_().sum() / 2)
        previous = unit
    return torch.stack(out) if out else torch.zeros(0, device=video.features.device)


def temporal_similarities(video: Tensor) -> Tensor:
    """Return the (T - 1, P) cosine similarity of each token with the same position in the next frame, in fp32.

    It is computed from the distance of unit vectors, so it is exact to the last digit where tokens hardly differ, and
    exactly 1 where they are equal. A zero vector has similarity 0 with everything.

    Args:
        video: (T, P, D) features of any floating dtype, as :func:`rescale_if_extreme` returns them.
    """
    out = torch.empty(len(video) - 1, video.shape[1], device=video.device)
    previous, previous_zero = None, None
    for t, frame in enumerate(video):
        norm = torch.linalg.vector_norm(frame.float(), dim=-1, keepdim=True)
        unit, zero = frame.float() / norm.clamp_min(TINY), norm[:, 0] <= TINY
        if previous is not None:
            cosine = 1 - torch.linalg.vector_norm(unit - previous, dim=-1).square() / 2
            out[t - 1] = cosine.masked_fill(zero | previous_zero, 0)
        previous, previous_zero = unit, zero
    return out


def steady_channels(variance: Tensor) -> Tensor:
    """Return the max(1, D // 2) channels of lowest variance, ascending; ties go to the lower channel."""
    half = max(1, len(variance) // 2)
    return torch.sort(variance, stable=True).indices[:half].sort().values


def gaussian_similarity(unit: Tensor, centre: Tensor) -> Tensor:
    """Return the (P,) sums of Gaussian kernels of five widths between each row and a centre (D,)."""
    distance = (unit - centre).square_().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * width)) for width in BANDWIDTHS]).sum(0)


@dataclass(frozen=True)
class NeighbourSimilarities:
    """Cosine similarities of neighbouring tokens; a zero vector has similarity 0 with everything.

    Attributes:
        temporal: (T, H, W) with the same position in the previous frame; 1 in frame 0.
        right: (T, H, W) with the next position in the row; -1 in the last column.
        bottom: (T, H, W) with the same position in the next row; -1 in the last row.
        inverse: (T, H, W) 1 / |x|, and 0 for a zero vector.
    """

    temporal: Tensor
    right: Tensor
    bottom: Tensor
    inverse: Tensor


def neighbour_similarities(video: Tensor) -> NeighbourSimilarities:
    """Compute the similarities of neighbouring tokens in one pass.

    Args:
        video: (T, H, W, D) features of any floating dtype, as :func:`rescale_if_extreme` returns them.
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
    return NeighbourSimilarities(temporal, right, bottom, inverse)
