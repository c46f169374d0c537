"""Slow-Fast: text attends to all tokens of the video, of which few are in the context (arXiv 2504.01328)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from framefold.adapters.base.added_attention import AddedAttention
from framefold.adapters.base.in_llm import RELEASED_LAYERS
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.language_model import LanguageModelShape
from framefold.adapters.core.sizes import MAX_SIZE
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.layers.gated_cross_attention import GatedCrossAttention
from framefold.errors import ConfigError, InputError

from .slow_fast import SlowFast


class SlowFastCrossAttention(SlowFast):
    """Keeps the tokens of ``slow_fast`` in the context, and adds trained cross-attention of text to all other tokens.

    The tokens in the context are the fast ones, and the budget is their number. In some decoder layers, every text
    column (those of the prompt, also before the video, and all later ones) attends to the N slow tokens of the videos
    in its row, which are all tokens before compression: o + tanh(gate(o)) * tanh(alpha) * attention(q, slow), where o
    is the output of the layer's self-attention before its output projection, and q are its rotated queries. ``gate``
    has one value per column, and ``alpha`` one per layer; slow tokens have no positions. ``alpha`` starts at zero, so
    that an untrained model equals ``slow_fast`` bit by bit.

    This costs, for each of these layers, 2 * g * d * N values (g key-value heads of width d) next to the key-value
    cache, and 4 * g * d * D * N operations for them once per prompt, and 4 * h * d * N operations per text column (h
    heads). The budget does not contain it.

    Fast tokens of the paper are means over time of whole frames, and its host is trained, too. Slow tokens are divided
    by their RMS here, so that one learning rate suits hosts of any scale.

    Args:
        budget: retention ratio or tokens per video, in the context.
        fast_share: see :class:`~framefold.adapters.compressors.slow_fast.SlowFast`.
        layers: decoder layers, from 0, in a language model of 28 layers or more; with fewer layers, those at the same
            share of the depth.
        num_layers: number of layers of the language model; None: that of the first host, as for all following.
        dim: token width D.
        heads: number of attention heads.
        kv_heads: number of key-value heads.
        head_width: width of a head.

    Raises:
        ConfigError: a parameter is out of range, or only some of the sizes are given.
        InputError: the sizes of the language model differ from those of the weights.
    """

    name = "slow_fast_cross_attention"
    paper = "Slow-Fast, arXiv 2504.01328"
    keeps = "what slow_fast keeps; in some layers, text also attends to all other tokens"
    cost = "that of slow_fast; in the language model, keys and values of all tokens in four layers"
    licence = "Apache-2.0"
    deviations = "the tokens in the context are those of slow_fast, where the paper averages frames over time"
    trainable: ClassVar[bool] = True
    counterpart = "slow_fast"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        fast_share: float = 0.28,
        layers: tuple[int, ...] = (0, 8, 16, 24),
        num_layers: int | None = None,
        dim: int | None = None,
        heads: int | None = None,
        kv_heads: int | None = None,
        head_width: int | None = None,
    ) -> None:
        super().__init__(budget, fast_share=fast_share)
        if not layers or min(layers) < 0 or len(set(layers)) != len(layers):
            raise ConfigError(f"{self.name}: layers must be different numbers from 0, got {list(layers)}")
        self.layers = layers
        self.num_layers, self.dim, self.heads, self.kv_heads = num_layers, dim, heads, kv_heads
        self.head_width = head_width
        self.in_llm = SlowAttention(layers)
        sizes = (num_layers, dim, heads, kv_heads, head_width)
        if any(size is not None for size in sizes):
            if not all(size is not None and 1 <= size <= MAX_SIZE for size in sizes):
                raise ConfigError(
                    f"{self.name}: num_layers, dim, heads, kv_heads and head_width must all be given, from 1 to"
                    f" {MAX_SIZE}, or none of them"
                )
            self.materialize_in_llm(LanguageModelShape(*sizes))  # type: ignore[arg-type]

    def materialize_in_llm(self, shape: LanguageModelShape, device: torch.device | None = None) -> None:
        own = (self.num_layers, self.dim, self.heads, self.kv_heads, self.head_width)
        if own[0] is not None and own != shape:
            raise InputError(
                f"{self.name} has weights for a language model of {_describe(LanguageModelShape(*own))}, not of"  # type: ignore[arg-type]
                f" {_describe(shape)}"
            )
        self.num_layers, self.dim, self.heads, self.kv_heads, self.head_width = shape
        self._stage.materialize(shape, device)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        tokens = cast(VideoTokens, super().compress(video, k, query))
        if torch.is_grad_enabled():  # so that every parameter gets a gradient, and the host's input needs one
            features = tokens.features + self.zero_times_parameters().to(tokens.features)
            tokens = replace(tokens, features=features)
        return Compressed(tokens, handover=video.features)

    @property
    def _stage(self) -> SlowAttention:
        return cast(SlowAttention, self.in_llm)

    def init_from_layers(self, layers: Sequence[Mapping[str, Tensor]], heads: int, kv_heads: int) -> dict[str, bool]:
        fits: dict[str, bool] = {}
        for number, block in self._stage.blocks.items():
            copied = block.copy_layer(layers[int(number)])  # type: ignore[operator]
            fits |= {f"in_llm.blocks.{number}.{name}": fit for name, fit in copied.items()}
        return fits


class SlowAttention(AddedAttention):
    """Gated cross-attention to slow tokens in some layers.

    Args:
        layers: layers in a language model of 28 layers or more.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.blocks = nn.ModuleDict()

    def adds(self, layers: int) -> tuple[int, ...]:
        scaled = (layer if layers >= RELEASED_LAYERS else layer * layers // RELEASED_LAYERS for layer in self.layers)
        return tuple(sorted(set(scaled)))

    def materialize(self, shape: LanguageModelShape, device: torch.device | None = None) -> None:
        """Create the weights, unless they exist."""
        if not self.blocks:
            for layer in self.adds(shape.layers):
                block = GatedCrossAttention(shape.width, shape.heads, shape.kv_heads, shape.head_width)
                self.blocks[str(layer)] = block.to(device)

    def keys_and_values(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.blocks[str(layer)].keys_and_values(tokens)  # type: ignore[operator]
        return keys, values

    def add(self, layer: int, query: Tensor, out: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        added: Tensor = self.blocks[str(layer)](query, out, keys, values, mask)
        return added


def _describe(shape: LanguageModelShape) -> str:
    return (
        f"{shape.layers} layers of width {shape.width} with {shape.heads} heads, {shape.kv_heads} key-value heads and"
        f" head width {shape.head_width}"
    )
