"""Record the attention that each patch receives in one attention module, for any attention implementation.

While recording, this module uses a wrapper of the host's own attention function that returns its result unchanged, so
outputs stay bit-identical. No other module is changed, and no attention weights are stored.

Dimensions: B images or groups of patches that attend to each other, h heads, L patches (and CLS tokens), d head width.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION_NAME = "framefold_received"

MAX_WEIGHTS = 2**24  # attention weights computed at once: 64 MiB in fp32


@contextlib.contextmanager
def recording(module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the attention received in every call of an attention module of transformers.

    Yields:
        A list to which each call of the attention function appends a (B, L) fp32 tensor: softmax weights averaged over
        heads and queries, so that each row sums to one.
    """
    any_module: Any = module
    config = any_module.config
    original = ALL_ATTENTION_FUNCTIONS.get(config._attn_implementation)
    if original is None:  # eager, which every model file defines for itself
        original = sys.modules[type(module).__module__].__dict__["eager_attention_forward"]
    calls: list[Tensor] = []
    any_module.config = copy.copy(config)  # the layers share one config
    any_module.config._attn_implementation_internal = ATTENTION_NAME
    any_module.config.framefold_received = (original, calls)
    try:
        yield calls
    finally:
        any_module.config = config


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


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **kwargs: Any
) -> Any:
    original, calls = module.config.framefold_received
    scaling = kwargs.get("scaling")
    with torch.no_grad():
        calls.append(
            received_attention(query, key, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
        )
    return original(module, query, key, value, attention_mask, *args, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attention)
