"""Statistics of visual tokens that know nothing of the question, each as a score by which tokens can be ranked.

Dimensions: T frames, H x W grid, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens

BLOCK = 1024  # tokens whose distances to all others are computed at a time


def length(video: VideoTokens) -> Tensor:
    """Return the norm of each token."""
    return video.features.norm(dim=-1)


def distance_from_mean(video: VideoTokens) -> Tensor:
    """Return the distance of each token from the mean of the video."""
    return (video.features - video.features.mean(dim=0)).norm(dim=-1)


def change(video: VideoTokens) -> Tensor:
    """Return the distance of each token from the same place in the previous frame; in frame 0, in the next one."""
    grid = video.as_grid()
    if len(grid) == 1:
        return torch.zeros(len(video))
    steps = (grid[1:] - grid[:-1]).norm(dim=-1)
    return torch.cat([steps[:1], steps]).flatten()


def nearest_neighbour(video: VideoTokens) -> Tensor:
    """Return the distance of each token from the nearest other token of the video."""
    x = video.features
    nearest = []
    for start in range(0, len(x), BLOCK):
        distance = torch.cdist(x[start : start + BLOCK], x)
        rows = torch.arange(len(distance))
        distance[rows, rows + start] = torch.inf
        nearest.append(distance.amin(dim=1))
    return torch.cat(nearest)


def local_contrast(video: VideoTokens) -> Tensor:
    """Return the mean distance of each token from its neighbours above, below, to the left and to the right."""
    grid = video.as_grid()
    total, count = torch.zeros(video.grid), torch.zeros(video.grid)
    for axis in (1, 2):
        size = grid.shape[axis]
        if size > 1:
            step = (grid.narrow(axis, 1, size - 1) - grid.narrow(axis, 0, size - 1)).norm(dim=-1)
            for start in (0, 1):
                total.narrow(axis, start, size - 1).add_(step)
                count.narrow(axis, start, size - 1).add_(1)
    return (total / count.clamp(min=1)).flatten()


def central_position(video: VideoTokens) -> Tensor:
    """Return how close each token is to the middle of its frame."""
    _, height, width = video.grid
    y, x = ((torch.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    return -(y[:, None] ** 2 + x**2).sqrt().expand(video.grid).flatten()


def low_position(video: VideoTokens) -> Tensor:
    """Return how far down in its frame each token is, where subtitles are."""
    return torch.arange(float(video.grid[1]))[:, None].expand(video.grid).flatten()


def time_of_frame(video: VideoTokens) -> Tensor:
    """Return the number of the frame of each token."""
    return torch.arange(float(video.grid[0]))[:, None].expand(-1, video.per_frame).flatten()


STATISTICS: Mapping[str, Callable[[VideoTokens], Tensor]] = {
    "length": length,
    "distance from mean": distance_from_mean,
    "change": change,
    "nearest neighbour": nearest_neighbour,
    "local contrast": local_contrast,
    "central position": central_position,
    "low position": low_position,
    "time": time_of_frame,
}


def pixel_tokens(frames: np.ndarray, cells: int) -> VideoTokens:
    """Return a video without a host: each token is the mean and the standard deviation of a cell, and its frequencies.

    A host's features follow what is in the pixels, so a shortcut that is absent here is hardly in the task.

    Args:
        frames: (T, S, S, 3) uint8.
        cells: H and W of the grid; S must be a multiple.
    """
    steps, size = frames.shape[:2]
    side = size // cells
    patches = torch.from_numpy(frames).float().reshape(steps, cells, side, cells, side, 3) / 127.5 - 1
    patches = patches.permute(0, 1, 3, 5, 2, 4)  # (T, H, W, 3, side, side)
    basis = _cosines(side)[:FREQUENCIES]
    spectrum = torch.einsum("...yx,fy,gx->...fg", patches, basis, basis)
    return VideoTokens.from_grid(spectrum.flatten(3))


FREQUENCIES = 4  # per axis, of the cosine transform of a cell; the lowest one is its mean


def _cosines(side: int) -> Tensor:
    """Return the orthonormal basis (side, side) of the discrete cosine transform, divided by the number of pixels."""
    k, n = torch.arange(side)[:, None], torch.arange(side)
    basis = torch.cos(torch.pi * (2 * n + 1) * k / (2 * side))
    basis[1:] *= 2**0.5
    return basis / side
