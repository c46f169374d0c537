"""Record the attention that each patch receives in one attention module, for any attention implementation.

While recording, an attention module of transformers uses a wrapper of the host's own attention function that returns
its result unchanged, and the module of a pooling head is observed by a hook, so outputs stay bit-identical. No other
module is changed, and no attention weights are stored.

Dimensions: B images or groups of patches that attend to each other, h heads, L patches (and CLS tokens), d head width.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from framefold.adapters.hosts.base.attention_function import unwrap_attention, wrap_attention

MAX_WEIGHTS = 2**24  # attention weights computed at once: 64 MiB in fp32


@contextlib.contextmanager
def recording(module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention received in every call of an attention module.

    Args:
        module: an attention module of transformers, or the torch.nn.MultiheadAttention of SigLIP's pooling head.

    Yields:
        A list to which each call of the attention function appends a (B, L) fp32 tensor: softmax weights averaged over
        heads and queries, so that each row sums to one.
    """
    calls: list[Tensor] = []
    if isinstance(module, nn.MultiheadAttention):
        hook = module.register_forward_hook(lambda _, args, output: calls.append(_pooling_weights(output)))
        try:
            yield calls
        finally:
            hook.remove()
        return
    wrap_attention(module, functools.partial(_record, calls))
    try:
        yield calls
    finally:
        unwrap_attention(module)


def received_attention(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Return the (B, L) attention that each key receives, averaged over heads and queries.

    Args:
        query: (B, h, L, d).
        key: (B, h, L, d).
        mask: (B, 1, L, L), added to the logits, or bool (True: may attend).
        scaling: factor of the logits.
    """
    batch, heads, length, _ = query.shape
    key = key.float().transpose(-1, -2)
    total = torch.zeros(batch, key.shape[-1], device=query.device)
    step = max(1, MAX_WEIGHTS // (batch * heads * key.shape[-1]))
    for start in range(0, length, step):
        logits = query[:, :, start : start + step].float() @ key * scaling
        if mask is not None:
            part = mask[:, :, start : start + step]
            logits = logits.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else logits + part
        total += logits.softmax(-1).sum((1, 2))
    return total / (heads * length)


def _pooling_weights(output: tuple[Tensor, Tensor]) -> Tensor:
    """Return (B, L) weights from the output of a pooling head: states, and weights (B, queries, L), means of heads."""
    return output[1].detach().float().mean(dim=1)


def _record(
    calls: list[Tensor],
    function: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    scaling = kwargs.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.no_grad():
        calls.append(received_attention(query, key, attention_mask, scaling))
    return function(module, query, key, value, attention_mask, *args, **kwargs)
