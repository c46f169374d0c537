"""Temporal encoder layer of STORM: a bidirectional scan over all tokens of a video (arXiv 2503.04130).

Dimensions: T frames, H W grid, N = T*H*W tokens, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .mamba2 import Mamba2

Order = Literal["raster", "temporal", "snake"]

Scan = Literal["raster", "temporal", "snake", "alternating"]  # "alternating": temporal and raster in turn


class BidirectionalMambaLayer(nn.Module):
    """Residual layer that adds a forward and a backward Mamba-2 scan of the normalized input, (B, N, D) -> (B, N, D).

    Args:
        width: D.
        causal: omit the backward scan, so that a token depends on earlier tokens only.
        identity: initialize the output projections with zeros, so that the layer returns its input bit by bit.
        mixer: parameters of :class:`~framefold.adapters.layers.mamba2.Mamba2`.
    """

    def __init__(self, width: int, causal: bool = False, identity: bool = True, **mixer: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fwd = Mamba2(width, **mixer)
        self.bwd = None if causal else Mamba2(width, **mixer)
        if identity:
            for direction in (self.fwd, self.bwd):
                if direction is not None:
                    nn.init.zeros_(direction.out_proj.weight)
                    if direction.out_proj.bias is not None:
                        nn.init.zeros_(direction.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        out = x + self.fwd(normed)
        return out if self.bwd is None else out + self.bwd(normed.flip(1)).flip(1)


def scan_order(grid: tuple[int, int, int], order: Order, device: torch.device | None = None) -> Tensor:
    """Return the (N,) int64 token at each position of the sequence.

    Args:
        grid: (T, H, W).
        order: "raster" is frame by frame and row by row (the paper). "temporal" is the T tokens of one position, then
            those of the next. "snake" is raster with every other row and every other frame reversed, so that neighbours
            in the sequence are neighbours in the video.
        device: device of the result.
    """
    t, h, w = grid
    ids = torch.arange(t * h * w, device=device).reshape(t, h, w)
    if order == "temporal":
        return ids.movedim(0, -1).reshape(-1)
    if order == "snake":
        ids[1::2] = ids[1::2].flip(1)  # every other frame from bottom to top
        rows = ids.reshape(t * h, w)
        rows[1::2] = rows[1::2].flip(1)
        return rows.reshape(-1)
    return ids.reshape(-1)


def scan_orders(
    grid: tuple[int, int, int], scan: Scan, layers: int, device: torch.device | None = None
) -> list[Tensor | None]:
    """Return the (N,) order of the tokens in each layer; "alternating" is "temporal" in the first, third, ... layer.

    Tokens are in raster order already, for which None stands, so that they are not copied.

    A scan in one order brings together neighbours along one axis only: with both in turn, a layer can relate a change
    in time to those beside it.

    Args:
        grid: (T, H, W).
        scan: order of all layers, see :func:`scan_order`; or "alternating", "temporal" and "raster" in turn.
        layers: number of layers.
        device: device of the result.
    """
    turn: tuple[Order, ...] = ("temporal", "raster") if scan == "alternating" else (scan,)
    orders = [None if order == "raster" else scan_order(grid, order, device) for order in turn]
    return [orders[layer % len(orders)] for layer in range(layers)]
