"""Synthetic features of videos."""

from __future__ import annotations

import torch

import framefold
from framefold import VideoTokens

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def synthetic(grid: tuple[int, int, int], kind: str = "drift", seed: int = 0, width: int = 8) -> torch.Tensor:
    """A (T, H, W, D) video that drifts with a cut ("drift"), hardly changes ("still"), or is degenerate."""
    t, h, w = grid
    g = torch.Generator().manual_seed(seed)
    if kind in ("constant", "zeros"):
        return torch.randn(width, generator=g).expand(t, h, w, width).clone() * (kind == "constant")
    if kind == "noise":
        return torch.randn(t, h, w, width, generator=g)
    rate = 0.2 if kind == "drift" else 0.001
    x = torch.randn(1, h, w, width, generator=g) + rate * torch.randn(t, h, w, width, generator=g).cumsum(0)
    x[t // 2 :] += torch.randn(h, w, width, generator=g) * (kind == "drift")
    return x


def kept_rows(name: str, x: torch.Tensor, budget: float | int, **params) -> list[int]:
    """The anchors that a compressor keeps of (T, H, W, D) features."""
    return framefold.build(name, budget, **params)(VideoTokens.from_grid(x)).tokens.index.tolist()
