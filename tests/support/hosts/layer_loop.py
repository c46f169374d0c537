"""The decoder layers of a bare host, one after the other, with tokens that are merged or dropped on the way.

Dimensions: L' columns that are left, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.hosts.bare_hosts import Batch

Reduce = Callable[[int, Tensor, list[int], Tensor], tuple[Tensor, list[int]]]
"""Changes the (L', D) states of a layer, given its number, the columns that are left, and the (L',) attention of the
last column (in front of a layer: zeros). Returns states and the places that stay."""


def loop_over_layers(
    batch: Batch, after_attention: Reduce | None = None, on_input: Reduce | None = None
) -> tuple[Tensor, list[int]]:
    """Return the logits of the last column of one row, and the number of columns of each layer.

    Args:
        batch: one row without padding, for a host with eager attention.
        after_attention: called between the attention and the MLP; columns are gone from the next layer on.
        on_input: called before a layer.
    """
    host, full = batch.host, batch.language_inputs
    text, hidden, left = host.language, full.embeds[0].clone(), list(range(full.embeds.shape[1]))
    deepstack = [_scatter(features, full.visual[0]) for features in full.layers]
    rotations = text.rotary_emb(full.embeds, full.positions)
    lengths = []
    for number, module in enumerate(text.layers):
        if on_input is not None:
            hidden, stay = on_input(number, hidden, left, torch.zeros(len(left)))
            hidden, left = hidden[stay], [left[place] for place in stay]
        short = [part.expand(1, *part.shape[1:])[:, left] for part in rotations]
        hidden, received = _add_attention(module, hidden, short)
        stay = list(range(len(left)))
        if after_attention is not None:
            hidden, stay = after_attention(number, hidden, left, received)
        hidden = _add_mlp(module, hidden)
        if number < len(deepstack):
            hidden = hidden + deepstack[number][left]
        lengths.append(len(left))
        hidden, left = hidden[stay], [left[place] for place in stay]
    return host.model.lm_head(text.norm(hidden[None]))[0, -1], lengths


def _scatter(features: Tensor, visual: Tensor) -> Tensor:
    out = features.new_zeros(len(visual), features.shape[1])
    out[visual] = features
    return out


def _add_attention(layer: Any, hidden: Tensor, rotations: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the states after the attention, and the attention of the last column, averaged over the heads."""
    mask = torch.full((len(hidden),) * 2, torch.finfo(hidden.dtype).min).triu(1)[None, None]
    out, weights = layer.self_attn(
        hidden_states=layer.input_layernorm(hidden[None]),
        position_embeddings=tuple(rotations),
        attention_mask=mask,
        past_key_values=None,
        position_ids=None,
    )
    received = weights[0, :, -1].float().mean(0)
    return hidden + getattr(layer, "post_self_attn_layernorm", torch.nn.Identity())(out)[0], received


def _add_mlp(layer: Any, hidden: Tensor) -> Tensor:
    out = layer.mlp(layer.post_attention_layernorm(hidden[None]))
    out = out[0] if isinstance(out, tuple) else out
    return hidden + getattr(layer, "post_mlp_layernorm", torch.nn.Identity())(out)[0]
