"""Features of tokens from what they show and what is around them in time and space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PARTS = 4  # the token, its two changes, and the mean of its neighbours


class ContextNetwork(nn.Module):
    """Reads each token and its surroundings with one hidden layer; its output is 0 before training.

    The surroundings are the change since the frame before, the change until the frame after, and the mean of the 3 x 3
    tokens around it in the frame. Without them, a moving object looks like a still one.

    Args:
        width: D.
        inner: width of the hidden layer.
        outputs: F.
    """

    def __init__(self, width: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(PARTS * width, inner)
        self.out = nn.Linear(inner, outputs, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (T * H * W, F) for (T, H, W, D) tokens of RMS around 1."""
        frames = frames.to(self.out.weight.dtype)
        steps, edge = frames[1:] - frames[:-1], torch.zeros_like(frames[:1])
        around = F.avg_pool2d(frames.movedim(-1, 1), 3, 1, 1, count_include_pad=False).movedim(1, -1)
        parts = [frames, torch.cat([edge, steps]), torch.cat([steps, edge]), around]
        found: Tensor = self.out(F.gelu(self.hidden(torch.cat(parts, -1))))
        return found.flatten(0, 2)


def unit_frames(features: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Return (N, D) tokens of a dense video as (T, H, W, D), in fp32 or wider and divided by their common RMS."""
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    return (x / x.square().mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)).view(*grid, -1)
