"""What adds to the self-attention of text inside the language model: attention to tokens outside of the context.

The hooks of an attached host (``adapters/hosts/hooks``) call it; nothing here knows a host.

Dimensions: B rows, T text columns, S tokens outside of the context, D width, h heads, g key-value heads, d head width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens

from .in_llm import InLLM


class AddedAttention(InLLM):
    """Adds to the self-attention of the text columns in some decoder layers, and leaves all tokens where they are.

    A subclass implements :meth:`adds`, :meth:`keys_and_values` and :meth:`add`, all with gradients.
    ``Compressed.handover`` of the compressor contains the (S, D) tokens outside of the context, which all text of the
    row sees. The budget counts the tokens in the context, which are the same in all layers.
    """

    def acts(self, layers: int) -> tuple[int, ...]:
        return ()

    def entering(self, k: int, n: int) -> int:
        return k

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        return ()

    def begin(self, video: VideoTokens, layers: int, handover: Any) -> Tensor:
        """Return the (S, D) tokens outside of the context."""
        tokens: Tensor = handover
        return tokens

    def keys_and_values(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, g, S, d) keys and values of the tokens for a layer.

        They are computed once per prompt and stored with the cache, and again where a layer is recomputed.

        Args:
            layer: number of the layer.
            tokens: (B, S, D), padded with zeros.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement keys_and_values()")

    def add(self, layer: int, query: Tensor, out: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return the output of the self-attention of a layer with what is added, (B, T, h, d), before ``o_proj``.

        Args:
            layer: number of the layer.
            query: (B, h, T, d) queries of the self-attention after rotation.
            out: (B, T, h, d) output of the self-attention.
            keys: from :meth:`keys_and_values`.
            values: from :meth:`keys_and_values`.
            mask: (B, S) bool, False for padding. Rows without tokens must be returned as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement add()")
