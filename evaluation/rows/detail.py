"""Frames with the detail of a smaller size, for hosts whose tower takes one size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def reduce_detail(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames to a smaller size and back; frames that are not larger stay as they are.

    Args:
        frames: (T, H, W, 3) uint8.
        size: height and width in pixels.
    """
    height, width = frames.shape[1:3]
    smaller = min(height, size[0]), min(width, size[1])
    if smaller == (height, width):
        return frames
    pixels = frames.movedim(-1, 1).float()
    for shape in (smaller, (height, width)):
        pixels = F.interpolate(pixels, size=shape, mode="bicubic", antialias=True).clamp(0, 255)
    return pixels.round().to(torch.uint8).movedim(1, -1)
