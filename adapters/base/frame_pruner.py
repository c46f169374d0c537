"""Base class of EVS and VidCom2: an exact and an official variant, and the pruning rate of serving engines.

Dimensions: T frames of P = H*W tokens, N = T*P, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.errors import BudgetError, ConfigError

from .compressor import Compressor


class FramePruner(Compressor):
    """Base class of methods that serving engines configure by q, the fraction of tokens to prune.

    Kept tokens are not changed. Implement :meth:`select_exact` and :meth:`select_official`.

    Args:
        budget: retention ratio or tokens per video. ``official`` accepts only a ratio r and passes q = 1 - r, rounded
            to 12 decimals, to the engines' rules: a budget of 0.07 is exactly what users of the engines write as 0.93.
        variant: ``exact`` meets any budget by framefold's own rule; ``official`` follows the engines, including their
            number of tokens.
        native: compute ``official`` in the dtype of the features, as served models do, instead of fp32.

    Raises:
        ConfigError: an unknown variant, or ``native`` without ``official``.
        BudgetError: a number of tokens for ``official``.
    """

    def __init__(
        self, budget: Budget = 0.25, *, variant: Literal["exact", "official"] = "exact", native: bool = False
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"{self.name}: variant must be 'exact' or 'official', got {variant!r}")
        if native and variant == "exact":
            raise ConfigError(f"{self.name}: native=True needs variant='official'; exact always computes in fp32")
        self.variant: str = variant
        self.native = native
        self.exact_budget = variant == "exact"
        if not self.exact_budget:
            self.pruning_rate()

    def select_exact(self, video: VideoTokens, k: int) -> Tensor:
        """Return the (k,) rows to keep, ascending, for an exact budget."""
        raise NotImplementedError(f"{type(self).__name__} must implement select_exact()")

    def select_official(self, video: VideoTokens, q: float) -> Tensor:
        """Return the rows, ascending, that the engines keep at pruning rate q."""
        raise NotImplementedError(f"{type(self).__name__} must implement select_official()")

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            if self.exact_budget:
                rows = self.select_exact(video, k)
            else:
                rows = self.select_official(video, self.pruning_rate())
        return video.keep(rows)

    def pruning_rate(self) -> float:
        """Return q = 1 - r to 12 decimals; the number of tokens that engines keep depends on its last bit.

        Raises:
            BudgetError: the budget is a number of tokens.
        """
        if isinstance(self.budget, int):
            raise BudgetError(
                f"{self.name}: variant='official' prunes a fraction of the tokens: give the budget as a ratio (float),"
                f" or use variant='exact'; got {self.budget} tokens"
            )
        return round(1 - self.budget, 12)


def engine_token_count(tokens: int, q: float, at_least: int) -> int:
    """Return how many of the tokens engines keep at pruning rate q; the order of operations affects the result.

    Args:
        tokens: number of tokens of the video.
        q: fraction to prune.
        at_least: number of tokens that are always kept.
    """
    return max(at_least, min(int(tokens * (1 - q)), tokens))
