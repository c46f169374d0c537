"""What EVS and VidCom2 share: two variants, the engines' pruning rate, frames in fp32, and selection in stages.

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
    """Base of methods that serving engines run behind a flag q, the fraction pruned. Kept tokens are not changed.

    Args:
        budget: retention ratio or tokens per video; ``official`` takes a ratio r only and gives the engines' rules
            q = 1 - r, rounded to 12 decimals: a budget of 0.07 is what their users write as 0.93, to the bit.
        variant: ``exact`` meets any budget by a rule of ours; ``official`` follows the engines, their count included.
        native: ``official`` in the dtype of the features, as served models run it, instead of fp32.

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
            raise ConfigError(f"{self.name}: native goes with variant='official'; exact always measures in fp32")
        self.variant, self.native = variant, native
        self.exact_budget = variant == "exact"
        if not self.exact_budget:
            self.pruned()

    def exact(self, video: VideoTokens, k: int) -> Tensor:
        """(k,) rows, ascending, by the rule for an exact budget."""
        raise NotImplementedError(f"{type(self).__name__} must implement exact()")

    def official(self, video: VideoTokens, q: float) -> Tensor:
        """Rows, ascending, that the engines keep at pruning rate q."""
        raise NotImplementedError(f"{type(self).__name__} must implement official()")

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            rows = self.exact(video, k) if self.exact_budget else self.official(video, self.pruned())
        return video.keep(rows)

    def pruned(self) -> float:
        """q = 1 - r to 12 decimals, the fraction that the engines are told to prune; counts depend on its last bit.

        Raises:
            BudgetError: the budget is a number of tokens.
        """
        if isinstance(self.budget, int):
            raise BudgetError(
                f"{self.name}: the engines prune a fraction and know no number of tokens: with variant='official' give "
                f"the budget as a ratio (float), or use variant='exact'; got {self.budget}"
            )
        return round(1 - self.budget, 12)
