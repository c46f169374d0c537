"""What EVS and VidCom2 share: two variants, the engines' pruning rate, frames in fp32, and selection in stages.

Dimensions: T frames of P = H*W tokens, N = T*P, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from .base import Compressor
from .errors import BudgetError, ConfigError
from .ops import Budget
from .tokens import VideoTokens


class Pruner(Compressor):
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


class Frames:
    """The frames of a dense video, (P, D) each, one by one and as often as needed: a frame fits the cache.

    Args:
        native: as they are; otherwise in fp32.
        rescale: times a power of two where the squares would overflow or vanish in fp32. That changes no digit, so
            that neither the scale of the features nor their dtype decides what is kept.
    """

    def __init__(self, video: VideoTokens, native: bool = False, rescale: bool = False) -> None:
        self.video = video.features.reshape(video.grid[0], video.per_frame, video.width)
        self.dtype = self.video.dtype if native else torch.float32
        self.exponent = 0
        if rescale:
            low, high = torch.aminmax(self.video)
            exponent = math.frexp(max(-float(low), float(high)))[1]
            self.exponent = exponent if abs(exponent) > 20 else 0

    def __iter__(self) -> Iterator[Tensor]:
        half = -self.exponent // 2
        for frame in self.video:
            if self.exponent:  # in two steps, since 2^1074 is no double
                frame = frame.double() * 2.0**half * 2.0 ** (-self.exponent - half)
            yield frame.to(self.dtype)


def normalize(x: Tensor, floor: float) -> Tensor:
    """(P, D) rows of length 1; a norm below ``floor`` counts as ``floor``, so a zero row stays zero."""
    info = torch.finfo(x.dtype)  # as an fp16 number the floor may be 0, and 0 / 0 has no rank
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(max(floor, info.tiny * info.eps))


def select(stage: Tensor, cost: Tensor, k: int) -> Tensor:
    """k rows: lower stages before higher ones, within a stage the lowest cost first, ties to the lower row.

    Args:
        stage: (T, P) integers; cost: (T, P) real.

    Returns:
        (k,) int64 rows of the flattened video, ascending.
    """
    order = torch.sort(cost.reshape(-1), stable=True).indices
    order = order[torch.sort(stage.reshape(-1)[order], stable=True).indices]
    return order[:k].sort().values


def rank_in_frame(cost: Tensor) -> Tensor:
    """(T, P) rank of each token in its frame: 0 for the lowest cost, ties to the lower place."""
    order = torch.sort(cost, dim=1, stable=True).indices
    ranks = torch.arange(cost.shape[1], device=cost.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)
