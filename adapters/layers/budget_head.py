"""QTSplus's budget head: how large a share of a video a question needs (arXiv 2511.11910).

Dimensions: L words of a question, M tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn


class BudgetHead(nn.Module):
    """A small MLP on the mean of the question, ln M, the highest score and the entropy of the scores.

    Args:
        width: D.
        low, high: range of the ratio.
    """

    seen: Tensor
    pending: Tensor
    mlp: nn.Sequential

    def __init__(self, width: int, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.mlp = nn.Sequential(nn.Linear(width + 3, 256), nn.GELU(), nn.Linear(256, 1))
        self.register_buffer("seen", torch.zeros(2))  # sum and number of all ratios so far, over all ranks
        self.register_buffer("pending", torch.zeros(2), persistent=False)  # those of this rank since synchronize()

    def forward(self, question: Tensor, log_scores: Tensor) -> Tensor:
        """The ratio, a scalar in (low, high), fp32 or wider.

        Args:
            question: (L, D). log_scores: (M,) logarithms of the scores, so that nothing underflows.
        """
        log_share = log_scores.log_softmax(-1)
        entropy = torch.special.entr(log_share.exp()).sum()
        size = entropy.new_tensor(math.log(len(log_scores)))
        facts = torch.stack([size, log_scores.max().exp(), entropy.clamp(min=0)])
        x = torch.cat([question.to(facts.dtype).mean(0), facts])
        weight = next(self.mlp.parameters()).dtype
        return self.low + (self.high - self.low) * torch.sigmoid(self.mlp(x.to(weight)).to(facts.dtype)[0])

    def costs(self, ratio: Tensor, tokens: int, most: int) -> dict[str, Tensor]:
        """Losses of a predicted ratio, unweighted: squared and plain share of the cap, and distance from the mean.

        Args:
            tokens: M. most: cap of tokens.
        """
        with torch.no_grad():
            self.pending += torch.stack([ratio, torch.ones_like(ratio)]).to(self.pending.dtype)
        total, count = self.seen + self.pending
        share = ratio * tokens / most
        return {"flops": share.square(), "kv": share, "smooth": (ratio - total / count).square()}

    @torch.no_grad()
    def synchronize(self) -> None:
        """Add what all ranks have seen since the last call; every rank must call it, between steps."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.pending)
        self.seen += self.pending
        self.pending.zero_()
