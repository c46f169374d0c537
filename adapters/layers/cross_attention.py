"""A decoder layer of a language model without positions, used as cross-attention: QTSplus (arXiv 2511.11910).

Names and shapes are those of a decoder layer, so one can be copied in. Nothing is padded: one video, one question.
Dimensions: L queries, M keys, D width, h heads, g key-value heads, d = D / h.
"""

from __future__ import annotations

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
    """x / rms(x) * weight over the last dimension, in fp32 or wider, returned in the dtype of x."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight.to(wide.dtype)).to(x.dtype)


class LMBlock(nn.Module):
    """Pre-norm attention of queries to keys, then a feed-forward of the queries.

    Args:
        width: D.
        heads: h. kv_heads: g; each serves h / g heads.
        scores_only: only what attention weights need (two norms, q_proj, k_proj): a last scoring block has no use for
            the rest, which would never get a gradient.
        identity: start with zero output projections, so that queries come back to the bit.
        key_bias: give keys a bias as decoder layers have it; softmax ignores what shifts all keys alike.

    Raises:
        ConfigError: D does not divide into the heads, or these into groups.
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
            raise ConfigError(f"{heads} heads and {kv_heads} key-value heads do not divide a width of {width}")
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
        """Take over attention and norms of a decoder layer; the feed-forward, which has another form, stays.

        Args:
            layer: ``{q,k,v,o}_proj.weight``, ``{q,k,v}_proj.bias`` where there are some (else they become zero),
                ``input_norm.weight`` (for queries and keys), ``post_attention_norm.weight``.
            keep: names of parameters to leave alone.

        Returns:
            Names of the parameters that the layer has a tensor for, and whether it fitted.
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

    def log_attention(self, queries: Tensor, keys: Tensor, place: Tensor | None = None) -> Tensor:
        """(h, L, M) logarithms of the attention weights, fp32 or wider.

        Args:
            queries: (L, D). keys: (M, D).
            place: (M, D) added to the normalised keys, such as an encoding of time.
        """
        query = self._heads(self.q_proj(self.q_norm(queries)), self.heads)
        key = self._heads(self.k_proj(self._keys(keys, place)), self.kv_heads)
        key = key.repeat_interleave(self.heads // self.kv_heads, 0)
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(queries.device.type, enabled=False):
            logits = query.to(wide) @ key.to(wide).transpose(-1, -2) / query.shape[-1] ** 0.5
        return logits.log_softmax(-1)

    def forward(self, queries: Tensor, keys: Tensor, place: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The queries after attention and feed-forward (L, D), and the logarithms of the attention (h, L, M)."""
        log_attention = self.log_attention(queries, keys, place)
        value = self._heads(self.v_proj(self._keys(keys, place)), self.kv_heads)
        value = value.repeat_interleave(self.heads // self.kv_heads, 0)
        mixed = log_attention.exp().to(value.dtype) @ value
        return self._out(queries, mixed), log_attention

    def reencode(self, tokens: Tensor, place: Tensor | None = None, log_gate: Tensor | None = None) -> Tensor:
        """Self-attention of tokens (K, D) -> (K, D).

        Args:
            place: (K, D) added to the normalised tokens.
            log_gate: (K,) added to the logits of the attention to each token.
        """
        placed = self.q_norm(tokens) if place is None else self.q_norm(tokens) + place.to(tokens.dtype)
        query = self._heads(self.q_proj(placed), self.heads)
        normed = self._keys(tokens, place)
        key, value = (self._heads(proj(normed), self.kv_heads) for proj in (self.k_proj, self.v_proj))
        key, value = (part.repeat_interleave(self.heads // self.kv_heads, 0) for part in (key, value))
        bias = None if log_gate is None else log_gate.to(query.dtype).expand(1, len(tokens), len(tokens))
        mixed = F.scaled_dot_product_attention(query[None], key[None], value[None], bias)[0]
        return self._out(tokens, mixed)

    def _keys(self, keys: Tensor, place: Tensor | None) -> Tensor:
        normed = self.kv_norm(keys)
        return normed if place is None else normed + place.to(normed.dtype)

    def _heads(self, x: Tensor, count: int) -> Tensor:
        return x.unflatten(-1, (count, -1)).transpose(0, 1)

    def _out(self, queries: Tensor, mixed: Tensor) -> Tensor:
        out = queries + self.o_proj(mixed.transpose(0, 1).flatten(1)).to(queries.dtype)
        return out + self.ffn(self.ffn_norm(out)).to(queries.dtype)
