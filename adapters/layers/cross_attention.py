"""Cross-attention of QTSplus: a decoder layer of a language model without positions (arXiv 2511.11910).

Parameter names and shapes are those of a decoder layer, so that a layer of a host can be copied. One call processes one
video and one question, without padding; leading dimensions are frames or windows of that video.
Dimensions: L queries, M keys, D width, h heads, g key-value heads, d = D / h.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framefold.errors import ConfigError

_NORMS = {
    "q_norm.weight": "input_norm.weight",
    "kv_norm.weight": "input_norm.weight",
    "ffn_norm.weight": "post_attention_norm.weight",
}


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in fp32 or wider and returned in the dtype of x."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight.to(wide.dtype)).to(x.dtype)


class CrossAttentionBlock(nn.Module):
    """Pre-norm attention from queries to keys, followed by a feed-forward network on the queries.

    All inputs may have further dimensions in front, which are a batch.

    Args:
        width: D.
        heads: h.
        kv_heads: g; each of them serves h / g heads.
        scores_only: create only what attention weights need (two norms, q_proj, k_proj). The last scoring block does
            not use the rest, which would never get a gradient.
        identity: initialize the output projections with zeros, so that queries are returned bit by bit.
        key_bias: give keys a bias, as decoder layers have; it has no effect, because it shifts all logits equally.

    Raises:
        ConfigError: D is not divisible by the heads, or the heads by the key-value heads.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        scores_only: bool = False,
        identity: bool = False,
        key_bias: bool = True,
    ) -> None:
        super().__init__()
        if min(width, heads, kv_heads) < 1 or width % heads or heads % kv_heads:
            raise ConfigError(f"a width of {width} is not divisible into {heads} heads and {kv_heads} key-value heads")
        self.heads, self.kv_heads = heads, kv_heads
        self.q_norm, self.kv_norm = RMSNorm(width), RMSNorm(width)
        shared = width // heads * kv_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, shared, bias=key_bias)
        self.scores_only = scores_only
        if scores_only:
            return
        self.v_proj, self.o_proj = nn.Linear(width, shared), nn.Linear(width, width, bias=False)
        self.ffn_norm = RMSNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        if identity:
            for parameter in (self.o_proj.weight, *self.ffn[2].parameters()):
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def copy_layer(self, layer: Mapping[str, Tensor], keep: Collection[str] = ()) -> dict[str, bool]:
        """Copy attention and norms from a decoder layer; the feed-forward network differs in form and is kept.

        Args:
            layer: ``{q,k,v,o}_proj.weight``, ``{q,k,v}_proj.bias`` (zero if missing), ``input_norm.weight`` (used for
                queries and keys) and ``post_attention_norm.weight``.
            keep: names of parameters that are not overwritten.

        Returns:
            Names of the parameters for which the layer has a tensor, and whether its shape matched.
        """
        fitted = {}
        for name, parameter in self.named_parameters():
            source = layer.get(_NORMS.get(name, name))
            if source is None and name.endswith("_proj.bias") and f"{name[:-4]}weight" in layer:
                source = torch.zeros_like(parameter)
            if source is None or name in keep:
                continue
            fitted[name] = source.shape == parameter.shape and source.is_floating_point()
            if fitted[name]:
                parameter.copy_(source)
        return fitted

    def project_keys(self, keys: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the (h, M, d) projected keys, which do not depend on the queries.

        Args:
            keys: (M, D).
            position: (M, D) added to the normalized keys, such as an encoding of time.
        """
        return self._repeat(self._heads(self.k_proj(self._keys(keys, position)), self.kv_heads))

    def logits(self, queries: Tensor, key: Tensor) -> Tensor:
        """Return the (h, L, M) logits of the attention, in fp32 or wider.

        Args:
            queries: (L, D).
            key: (h, M, d) of :meth:`project_keys`.
        """
        query = self._heads(self.q_proj(self.q_norm(queries)), self.heads)
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(queries.device.type, enabled=False):
            return query.to(wide) @ key.to(wide).transpose(-1, -2) / query.shape[-1] ** 0.5

    def log_attention(self, queries: Tensor, keys: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the (h, L, M) logarithms of the attention weights; see :meth:`project_keys`."""
        return self.logits(queries, self.project_keys(keys, position)).log_softmax(-1)

    def forward(self, queries: Tensor, keys: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the (L, D) updated queries and the (h, L, M) logarithms of the attention weights."""
        log_attention = self.log_attention(queries, keys, position)
        value = self._repeat(self._heads(self.v_proj(self._keys(keys, position)), self.kv_heads))
        mixed = log_attention.exp().to(value.dtype) @ value
        return self._out(queries, mixed), log_attention

    def read(self, queries: Tensor, keys: Tensor, position: Tensor | None = None) -> Tensor:
        """Return the (..., L, D) updated queries of :meth:`forward`, without its weights, which are not stored.

        Args:
            queries: (..., L, D).
            keys: (..., M, D).
            position: (..., M, D) added to the normalized keys.
        """
        query = self._heads(self.q_proj(self.q_norm(queries)), self.heads)
        return self._attend(queries, query, self._keys(keys, position))

    def reencode(self, tokens: Tensor, position: Tensor | None = None, log_gate: Tensor | None = None) -> Tensor:
        """Apply the block as self-attention, (K, D) -> (K, D).

        Args:
            tokens: (K, D).
            position: (K, D) added to the normalized tokens.
            log_gate: (K,) added to the logits of the attention to each token.
        """
        positioned = self.q_norm(tokens) if position is None else self.q_norm(tokens) + position.to(tokens.dtype)
        query = self._heads(self.q_proj(positioned), self.heads)
        bias = None if log_gate is None else log_gate.to(query.dtype).expand(1, len(tokens), len(tokens))
        return self._attend(tokens, query, self._keys(tokens, position), bias)

    def _attend(self, queries: Tensor, query: Tensor, normed: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return queries after attention of their (..., h, L, d) projections to (..., M, D) normalized keys."""
        projections = (self._heads(proj(normed), self.kv_heads) for proj in (self.k_proj, self.v_proj))
        key, value = map(self._repeat, projections)
        batch = math.prod(query.shape[:-3])
        q, k, v = (part.reshape(batch, *part.shape[-3:]) for part in (query, key, value))
        return self._out(queries, F.scaled_dot_product_attention(q, k, v, bias).reshape(query.shape))

    def _keys(self, keys: Tensor, position: Tensor | None) -> Tensor:
        normed = self.kv_norm(keys)
        return normed if position is None else normed + position.to(normed.dtype)

    def _heads(self, x: Tensor, count: int) -> Tensor:
        return x.unflatten(-1, (count, -1)).transpose(-3, -2)

    def _repeat(self, x: Tensor) -> Tensor:
        """Return (..., h, M, d) of (..., g, M, d); no copy if both are equal."""
        shared = self.heads // self.kv_heads
        return x if shared == 1 else x.repeat_interleave(shared, -3)

    def _out(self, queries: Tensor, mixed: Tensor) -> Tensor:
        out = queries + self.o_proj(mixed.transpose(-3, -2).flatten(-2)).to(queries.dtype)
        return out + self.ffn(self.ffn_norm(out)).to(queries.dtype)
