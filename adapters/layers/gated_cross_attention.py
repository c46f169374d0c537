"""Gated cross-attention of Slow-Fast inside a decoder layer (arXiv 2504.01328).

It uses the queries of the layer's self-attention and adds to the output of the latter, before the output projection.

Dimensions: B rows, T queries, S tokens, D width, h heads, g key-value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-24  # small, because the scale of features differs between hosts by orders of magnitude


class GatedCrossAttention(nn.Module):
    """Adds tanh(gate(x)) * tanh(alpha) * attention(q, tokens) to x, the output of the self-attention.

    ``alpha`` starts at zero, so that x is returned bit by bit. Each token is divided by its RMS before the projection.

    Args:
        width: D.
        heads: h.
        kv_heads: g; each of them serves h / g heads.
        head_width: d.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.kv_proj = nn.Linear(width, 2 * kv_heads * head_width)
        self.gate = nn.Linear(heads * head_width, 1)
        self.alpha = nn.Parameter(torch.zeros(1))  # FSDP2 does not shard scalars

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of the tokens: (B, S, D) -> twice (B, g, S, d)."""
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        normed = wide * wide.square().mean(-1, keepdim=True).add(EPS).rsqrt()
        projected = self.kv_proj(normed.to(self.kv_proj.weight.dtype))
        keys, values = projected.unflatten(-1, (2, self.kv_heads, -1)).permute(2, 0, 3, 1, 4)
        return keys, values

    def forward(self, query: Tensor, out: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return the output of the self-attention with what is added, (B, T, h, d).

        Args:
            query: (B, h, T, d) after rotation.
            out: (B, T, h, d) output of the self-attention.
            keys: (B, g, S, d).
            values: (B, g, S, d).
            mask: (B, S) bool, tokens that are attended to; a row without any is returned as it is.
        """
        has_tokens = mask.any(-1)[:, None, None]
        seen = mask[:, None, None] | ~has_tokens[:, None]  # a softmax over nothing has no gradient
        groups = query.shape[1] // self.kv_heads
        keys, values = (part.to(query).repeat_interleave(groups, 1) for part in (keys, values))
        attended = F.scaled_dot_product_attention(query, keys, values, seen).transpose(1, 2)
        weight = self.gate.weight
        gate = torch.tanh(self.gate(out.flatten(2).to(weight))) * torch.tanh(self.alpha) * has_tokens
        return out + gate[..., None].to(out) * attended.to(out)

    @torch.no_grad()
    def copy_layer(self, layer: Mapping[str, Tensor]) -> dict[str, bool]:
        """Copy the key and value projections of a decoder layer, and the weight of its input norm into them.

        Args:
            layer: ``{k,v}_proj.weight``, ``{k,v}_proj.bias`` (zero if missing) and ``input_norm.weight``.

        Returns:
            Names of the parameters for which the layer has tensors, and whether their shapes matched.
        """
        parts = [layer[f"{name}.weight"] * layer["input_norm.weight"] for name in ("k_proj", "v_proj")]
        biases = [
            layer.get(f"{name}.bias", part.new_zeros(len(part)))
            for name, part in zip(("k_proj", "v_proj"), parts, strict=True)
        ]
        weight, bias = torch.cat(parts), torch.cat(biases)
        fits = weight.shape == self.kv_proj.weight.shape and weight.is_floating_point()
        if fits:
            self.kv_proj.weight.copy_(weight)
            self.kv_proj.bias.copy_(bias)
        return {"kv_proj.weight": fits, "kv_proj.bias": fits}
