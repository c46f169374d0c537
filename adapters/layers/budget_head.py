"""Budget head of QTSplus: predicts the retention ratio that a question needs (arXiv 2511.11910).

Dimensions: L words of a question, M tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn


class BudgetHead(nn.Module):
    """Small MLP on the mean question embedding, ln M, the highest score and the entropy of the scores.

    Args:
        width: D.
        low: lower bound of the ratio.
        high: upper bound of the ratio.
    """

    seen: Tensor
    pending: Tensor
    mlp: nn.Sequential

    def __init__(self, width: int, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.mlp = nn.Sequential(nn.Linear(width + 3, 256), nn.GELU(), nn.Linear(256, 1))
        self.register_buffer("seen", torch.zeros(2))  # sum and number of the ratios of all ranks until synchronize()
        self.register_buffer("pending", torch.zeros(2), persistent=False)  # those of this rank since synchronize()

    def forward(self, question: Tensor, log_scores: Tensor) -> Tensor:
        """Return the ratio, a scalar in (low, high), in fp32 or wider.

        Args:
            question: (L, D) embeddings.
            log_scores: (M,) logarithms of the scores; logarithms cannot underflow.
        """
        log_share = log_scores.log_softmax(-1)
        entropy = torch.special.entr(log_share.exp()).sum()
        size = entropy.new_tensor(math.log(len(log_scores)))
        statistics = torch.stack([size, log_scores.max().exp(), entropy.clamp(min=0)])
        x = torch.cat([question.to(statistics.dtype).mean(0), statistics])
        weight = next(self.mlp.parameters()).dtype
        return self.low + (self.high - self.low) * torch.sigmoid(self.mlp(x.to(weight)).to(statistics.dtype)[0])

    def costs(self, ratio: Tensor, tokens: int, most: int) -> dict[str, Tensor]:
        """Return the unweighted losses of a predicted ratio and add the ratio to the running mean.

        Args:
            ratio: scalar, as predicted.
            tokens: M.
            most: maximum number of tokens.

        Returns:
            "flops" and "kv", the squared and the plain fraction of the maximum; "smooth", the squared distance from the
            mean of all ratios.
        """
        with torch.no_grad():
            self.pending += torch.stack([ratio, torch.ones_like(ratio)]).to(self.pending.dtype)
        total, count = self.seen + self.pending
        share = ratio * tokens / most
        return {"flops": share.square(), "kv": share, "smooth": (ratio - total / count).square()}

    @torch.no_grad()
    def synchronize(self) -> None:
        """Add the ratios of all ranks since the last call to ``seen``; every rank must call it, between steps."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.pending)
        self.seen += self.pending
        self.pending.zero_()
