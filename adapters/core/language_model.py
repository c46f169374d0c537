"""Sizes of a language model."""

from __future__ import annotations

from typing import NamedTuple


class LanguageModelShape(NamedTuple):
    """Sizes of a language model that parameters inside of it depend on.

    Attributes:
        layers: number of decoder layers.
        width: D, the width of its hidden states and of visual tokens.
        heads: number of attention heads.
        kv_heads: number of key-value heads.
        head_width: width of a head; ``heads * head_width`` may differ from D.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
