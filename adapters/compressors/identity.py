"""Identity: every token stays."""

from __future__ import annotations

from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.tokens import VideoTokens


class Identity(Compressor):
    """Keeps every token, whatever the budget: the reference that attaching must not change.

    It declares ``exact_budget = False``, so the ablation shows it as the row of full tokens and never at a budget.
    """

    name = "identity"
    exact_budget = False

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video
