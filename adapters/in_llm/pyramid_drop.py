"""PyramidDrop: prune visual tokens at the end of each stage of the language model (arXiv 2410.17247)."""

from __future__ import annotations

from framefold.adapters.base.in_llm import AttentionPruning
from framefold.adapters.base.in_llm_only import InLLMOnly
from framefold.adapters.core.budget import Budget
from framefold.errors import ConfigError


class PyramidDrop(InLLMOnly):
    """Drops the same share of the tokens after each of several equal parts of the language model.

    The n layers form ``parts`` parts. All tokens enter the first one. At the end of each part but the last, the tokens
    are ranked by the attention that the prompt's last token pays them in the part's last layer, averaged over heads.
    The budget is the mean over the layers. It determines the share that is kept after each part, which is the same for
    all parts up to rounding; the last part gets what is left of the budget. Budgets below about 1 / parts are not
    possible. The published share of one half in four parts is a budget of 0.47.

    Args:
        budget: retention ratio or tokens per video, as the mean over the layers.
        parts: number of parts.

    Raises:
        ConfigError: there are fewer than two parts.
    """

    name = "pyramid_drop"
    paper = "PyramidDrop, arXiv 2410.17247"
    keeps = "tokens that the prompt's last token attends to, fewer after each part of the language model"
    cost = "one row of attention in each of three layers"
    licence = "NOASSERTION"
    deviations = (
        "the release keeps given shares, ranks by the attention of the layer behind a part, and renumbers positions;"
        " here the share follows from the budget, the part's last layer ranks, and tokens keep their positions"
    )
    query_aware = True

    def __init__(self, budget: Budget = 0.5, *, parts: int = 4) -> None:
        super().__init__(budget)
        if parts < 2:
            raise ConfigError(f"pyramid_drop: parts must be at least 2, got {parts}")
        self.parts = parts
        self.in_llm = AfterEachPart(parts)


class AfterEachPart(AttentionPruning):
    """Prunes by attention in the last layer of each part but the last."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def acts(self, layers: int) -> tuple[int, ...]:
        ends = {layers * part // self.parts - 1 for part in range(1, self.parts)}
        return tuple(sorted(end for end in ends if end >= 0))
