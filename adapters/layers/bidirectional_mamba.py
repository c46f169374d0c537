"""STORM's temporal encoder layer: a video's tokens in one sequence, scanned in both directions (arXiv 2503.04130).

Dimensions: T frames, H W grid, N = T*H*W tokens, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .mamba2 import Mamba2

Order = Literal["raster", "temporal", "snake"]


class ScanLayer(nn.Module):
    """x + forward(LayerNorm(x)) + the same of the reversed sequence, reversed again; (B, N, D) -> (B, N, D).

    Args:
        width: D.
        causal: no reversed scan, so that a token knows of earlier ones only.
        identity: start with both output projections at zero, which returns the input to the bit.
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
    """(N,) int64, the token that comes at each place of the sequence.

    Args:
        grid: (T, H, W).
        order: "raster" frame by frame and row by row (the paper); "temporal" the T tokens of a place, then the next
            place; "snake" as raster, but every other row and every other frame backwards, so that neighbours in the
            sequence are neighbours in the video.
    """
    t, h, w = grid
    ids = torch.arange(t * h * w, device=device).reshape(t, h, w)
    if order == "temporal":
        return ids.movedim(0, -1).reshape(-1)
    if order == "snake":
        ids[1::2] = ids[1::2].flip(1)  # every other frame from its last row up
        rows = ids.reshape(t * h, w)
        rows[1::2] = rows[1::2].flip(1)
        return rows.reshape(-1)
    return ids.reshape(-1)
