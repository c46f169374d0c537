"""Attention of each token to earlier tokens at its place, modulated by time; PVC's progressive encoding.

Dimensions: T frames, P places, C width, F features of a time.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from framefold.errors import ConfigError


class CausalTimeAttention(nn.Module):
    """Residual layer of causal attention over time, (T, P, C) -> (T, P, C); places do not affect each other.

    The input of the attention is normalized, then scaled and shifted by linear functions of the features of its time,
    which start as 1 and 0.

    Args:
        width: C.
        heads: number of attention heads.
        features: F.
        identity: initialize the output projection with zeros, so that the layer returns its input bit by bit.

    Raises:
        ConfigError: C is not divisible by the heads.
    """

    def __init__(self, width: int, heads: int, features: int, identity: bool = True) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"a width of {width} is not divisible into {heads} heads")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(features, 2 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        for parameter in (*self.modulation.parameters(), *([self.out.weight] if identity else [])):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Return (T, P, C) tokens.

        Args:
            x: (T, P, C).
            times: (T, F) features of the times of the frames.
        """
        factor, shift = self.modulation(times)[:, None].chunk(2, dim=-1)
        normed = self.norm(x) * (1 + factor) + shift
        q, k, v = self.qkv(normed).unflatten(-1, (3, self.heads, -1)).permute(2, 1, 3, 0, 4)  # each (P, h, T, d)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).permute(2, 0, 1, 3).flatten(2)
        change: Tensor = self.out(mixed)
        return x + change.to(x.dtype)
