"""Stages that prune once inside the language model, by the attention of the prompt's last column."""

from __future__ import annotations

import math

from .in_llm import AttentionPruning, scale_layer


class PruneAfterLayer(AttentionPruning):
    """Prunes after one layer, to a mean over the layers.

    Args:
        layer: last layer that sees all tokens that enter, as in publications; see
            :func:`~framefold.adapters.base.in_llm.scale_layer`.
        expansion: number of tokens that enter, relative to the budget and rounded down; infinity for all tokens.
    """

    def __init__(self, layer: int, expansion: float = math.inf) -> None:
        super().__init__()
        self.layer, self.expansion = layer, expansion

    def acts(self, layers: int) -> tuple[int, ...]:
        return (scale_layer(self.layer, layers),)

    def entering(self, k: int, n: int) -> int:
        return int(min(n, self.expansion * k))


class PruneToRatio(PruneAfterLayer):
    """Keeps a given fraction of the tokens after one layer, rounded up; the budget does not matter.

    Args:
        layer: see :class:`PruneAfterLayer`.
        ratio: fraction of the tokens, in (0, 1].
    """

    def __init__(self, layer: int, ratio: float) -> None:
        super().__init__(layer, 1.0)
        self.ratio = ratio

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        return (math.ceil(self.ratio * entered),)
