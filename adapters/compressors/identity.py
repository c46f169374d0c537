"""Identity: keep every token."""

from __future__ import annotations

from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.tokens import VideoTokens


class Identity(Compressor):
    """Keeps every token regardless of the budget; attaching it must not change the output of a host.

    ``exact_budget`` is False, so the ablation reports it as "all tokens" instead of at a budget.
    """

    name = "identity"
    keeps = "everything"
    cost = "nothing"
    exact_budget = False

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video
