"""Floating-point operations: of a prefill by formula, and of a call as counted by torch.

A multiplication and an addition are two operations. Attention is counted in full, as torch's counter does, although a
causal kernel computes only half of it. Norms, activations and sorting are not counted, because they are no matrix
products.

Dimensions: L tokens of a prompt, D width, F width of the feed-forward part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from framefold.adapters.core.language_model import LanguageModelShape


def prefill_flops(config: Any, tokens: float | Sequence[float]) -> float | None:
    """Return the operations of a language model that reads a prompt and computes the logits after its last token.

    Args:
        config: configuration of the host or of its language model.
        tokens: L, or a mean of several L; or one such number for each layer.

    Returns:
        None if a layer is anything but full attention and a gated feed-forward part (or experts).
    """
    formula = PrefillFormula.of(config)
    return None if formula is None else formula(tokens)


@dataclass(frozen=True)
class PrefillFormula:
    """Operations of a prefill as a function of the number of tokens.

    Attributes:
        weights: number of weights of each layer that each token is multiplied with.
        heads: width of all attention heads together.
        logits: number of weights of the last projection.
    """

    weights: tuple[int, ...]
    heads: int
    logits: int

    @classmethod
    def of(cls, config: Any) -> PrefillFormula | None:
        """Return the formula of a language model, None if there is none, see :func:`prefill_flops`."""
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        try:
            weights = tuple(_weights(text, layer) for layer in range(text.num_hidden_layers))
            formula = cls(weights, text.num_attention_heads * _head_width(text), text.hidden_size * text.vocab_size)
        except (AttributeError, TypeError):
            return None
        if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
            return None
        return formula

    def __call__(self, tokens: float | Sequence[float]) -> float:
        """Return the operations with these tokens, see :func:`prefill_flops`."""
        lengths = tokens if isinstance(tokens, Sequence) else [tokens] * len(self.weights)
        pairs = zip(lengths, self.weights, strict=True)
        per_layer = [
            length * (weights + 2 * length * self.heads) for length, weights in pairs
        ]  # scores, weighted values
        return 2 * (sum(per_layer) + self.logits)

    def after(self, tokens: Sequence[float], new: int, logits: int) -> float:
        """Return the operations of further tokens, a question and its answer, on top of a prefill.

        Args:
            tokens: number of tokens in each layer before them.
            new: number of further tokens.
            logits: number of tokens after which logits are computed.
        """
        pairs = zip(tokens, self.weights, strict=True)
        per_layer = [new * (weights + 2 * (length + new) * self.heads) for length, weights in pairs]
        return 2 * (sum(per_layer) + logits * self.logits)


def added_attention_flops(shape: LanguageModelShape, layers: int, text: int, tokens: int) -> int:
    """Return the operations of a prefill for gated attention that is added to that of text.

    Args:
        shape: sizes of the language model.
        layers: number of layers in which it is added.
        text: number of text columns.
        tokens: number of tokens outside of the context.
    """
    projections = 2 * tokens * shape.width * 2 * shape.kv_heads * shape.head_width
    attention = 2 * text * shape.heads * shape.head_width * (2 * tokens + 1)  # scores, weighted values, and the gate
    return layers * (projections + attention)


def _weights(text: Any, layer: int) -> int:
    """Return the number of weights of a layer that each token is multiplied with."""
    width, head = text.hidden_size, _head_width(text)
    heads = text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    attention = width * head * (2 * heads + 2 * keys)
    experts = getattr(text, "num_experts", None) or 0
    if not experts or layer in (getattr(text, "mlp_only_layers", None) or ()) or (layer + 1) % _sparse_step(text):
        return attention + 3 * width * text.intermediate_size
    return attention + width * experts + 3 * width * text.moe_intermediate_size * text.num_experts_per_tok


def _head_width(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _sparse_step(text: Any) -> int:
    return getattr(text, "decoder_sparse_step", None) or 1


def count_flops(run: Callable[[], Any]) -> int:
    """Count the operations of the matrix products, convolutions and attention of a call.

    Custom kernels, which torch does not know, are not counted.
    """
    mapping = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops
    }  # torch's own list lacks it
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)
