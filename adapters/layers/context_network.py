"""Features of tokens from what they show and what is around them in time and space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framefold.errors import ConfigError
from framefold.messages import short

PARTS = 4  # the token, its two changes, and the mean of its neighbours

MAX_LAYERS = 16

MAX_WIDTH = 2**16  # a config could otherwise request any amount of memory


class ContextNetwork(nn.Module):
    """Reads each token and its surroundings, one frame and one token further per layer; returns 0 before training.

    A layer reads the token, its change since the frame before, its change until the frame after, and the mean of the
    3 x 3 tokens around it in the frame. One layer tells a moving object from a still one, several a steady path from a
    crowd that changes everywhere.

    Args:
        width: D.
        inner: width of each layer.
        outputs: F.
    """

    def __init__(self, width: int, inner: Sequence[int], outputs: int) -> None:
        super().__init__()
        pairs = zip([width, *inner], inner, strict=False)
        self.layers = nn.ModuleList(nn.Linear(PARTS * before, after) for before, after in pairs)
        self.out = nn.Linear(inner[-1], outputs, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (T * H * W, F) for (T, H, W, D) tokens of RMS around 1."""
        x = frames.to(self.out.weight.dtype)
        for layer in self.layers:
            x = F.gelu(layer(_with_surroundings(x)))
        found: Tensor = self.out(x)
        return found.flatten(0, 2)


def check_context(name: str, context: Sequence[int]) -> None:
    """Check the widths of the layers of a network, of which there are none without a network.

    Raises:
        ConfigError: a width or the number of layers is out of range; the message begins with ``name``.
    """
    if len(context) > MAX_LAYERS or any(not 1 <= width <= MAX_WIDTH for width in context):
        raise ConfigError(
            f"{name}: context must be up to {MAX_LAYERS} widths of 1 to {MAX_WIDTH}, such as [64, 64, 64], got"
            f" {short(list(context))}"
        )


def _with_surroundings(x: Tensor) -> Tensor:
    """Return (T, H, W, PARTS * D) for (T, H, W, D)."""
    steps, edge = x[1:] - x[:-1], torch.zeros_like(x[:1])
    around = F.avg_pool2d(x.movedim(-1, 1), 3, 1, 1, count_include_pad=False).movedim(1, -1)
    return torch.cat([x, torch.cat([edge, steps]), torch.cat([steps, edge]), around], -1)


def unit_frames(features: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Return (N, D) tokens of a dense video as (T, H, W, D), in fp32 or wider and divided by their common RMS."""
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    return (x / x.square().mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)).view(*grid, -1)
