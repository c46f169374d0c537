"""FastV: prune visual tokens once, after an early layer of the language model (arXiv 2403.06764)."""

from __future__ import annotations

from framefold.adapters.base.in_llm_only import InLLMOnly
from framefold.adapters.base.prune_after_layer import PruneAfterLayer
from framefold.adapters.core.budget import Budget
from framefold.errors import ConfigError


class FastV(InLLMOnly):
    """Keeps, from one layer of the language model on, the tokens that the prompt's last token attends to most.

    All tokens enter. After the attention of ``layer``, they are ranked by the attention that the last token of the
    prompt pays them, averaged over heads. The budget is the mean over the layers: with a layers up to this one of n, N
    tokens and a budget of k, floor((n k - a N) / (n - a)) tokens are left. Budgets below about a / n are not possible.

    Args:
        budget: retention ratio or tokens per video, as the mean over the layers.
        layer: last layer that sees all tokens, from 0, in a language model of 28 layers or more; with fewer layers, the
            same share of them sees all tokens.

    Raises:
        ConfigError: the layer is negative.
    """

    name = "fastv"
    paper = "FastV, arXiv 2403.06764"
    keeps = "tokens that the prompt's last token attends to in an early layer"
    cost = "one row of attention in one layer"
    licence = "none"
    deviations = "the release keeps a given share of the tokens after the layer; the share follows from the budget here"
    query_aware = True

    def __init__(self, budget: Budget = 0.25, *, layer: int = 1) -> None:
        super().__init__(budget)
        if layer < 0:
            raise ConfigError(f"fastv: layer must be at least 0, got {layer}")
        self.layer = layer
        self.in_llm = PruneAfterLayer(layer)
