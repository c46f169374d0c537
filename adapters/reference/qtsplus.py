"""The released code of QTSplus, reproduced with its defects (arXiv 2511.11910, release 5cc24bc).

The defects: during training, the gate keeps another number of tokens than the ratio requires, nearly independent of the
scores; ``n_max`` applies at inference only; the threshold is computed by unrolled Newton steps, which diverge at small
temperatures; entropy and ratio have the dtype of the tokens (in fp16: NaN, then one token); padding of a batch is
attended to; v_proj, o_proj and feed-forward of the last scoring block never get a gradient.

Dimensions: M tokens of a video, L words of a question, D width, n tokens kept, B videos of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framefold.adapters.layers.budget_head import BudgetHead
from framefold.adapters.ops.selection import exact_topk

STEPS = 10  # of Newton's method, unrolled

EPS = 1e-8


@dataclass(frozen=True)
class CrossAttentionScores:
    """Cross-attention of a question to one video.

    Attributes:
        r: (M,) largest attention weight of each token over heads and words, in the last block.
        attention: (h, L, M) weights of each block.
        question: (L, D) words after each block.
    """

    r: Tensor
    attention: list[Tensor]
    question: list[Tensor]


@dataclass(frozen=True)
class Gate:
    """The stochastic gate of one video during training.

    Attributes:
        t: scalar threshold.
        logits: (M, 2) logits of keeping and dropping; unlike ``t``, not divided by the temperature.
        soft: (M,) relaxed gate, which provides the gradient.
        hard: (M,) gate, 0 or 1, with the gradient of ``soft``.
    """

    t: Tensor
    logits: Tensor
    soft: Tensor
    hard: Tensor

    @property
    def rows(self) -> Tensor:
        """Rows of the kept tokens, ascending."""
        return (self.hard.detach() > 0.5).nonzero()[:, 0]


class RunningMean:
    """Mean of the ratios of all calls so far, including inference; it is not saved in checkpoints."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, ratios: Tensor) -> float:
        """Add the (B,) ratios of a call and return the mean."""
        self.total += float(ratios.detach().sum())
        self.count += len(ratios)
        return self.total / self.count


def score_tokens(blocks: Iterable[Any], x: Tensor, question: Tensor) -> CrossAttentionScores:
    """Apply the scoring blocks, cross-attention of the question (L, D) to the tokens (M, D).

    Args:
        blocks: :class:`~framefold.adapters.layers.cross_attention.CrossAttentionBlock` modules.
        x: (M, D) tokens.
        question: (L, D) embeddings.
    """
    attention, words = [], []
    for block in blocks:
        question, log_attention = block(question, x)
        attention.append(log_attention.exp().to(x.dtype))
        words.append(question)
    return CrossAttentionScores(attention[-1].amax((0, 1)), attention, words)


def entropy(r: Tensor) -> Tensor:
    """Return the entropy of the normalized scores; NaN in fp16, where the epsilon in the logarithm rounds to 0."""
    p = r / (r.sum() + EPS)
    return -(p * (p + EPS).log()).sum()


def predict_ratio(head: BudgetHead, question: Tensor, r: Tensor) -> Tensor:
    """Return the ratio, a scalar, from mean word, ln M, largest score and entropy, in the dtype of the tokens."""
    statistics = torch.stack([r.new_tensor(math.log(max(len(r), 1))), r.max(), entropy(r).clamp(min=0)])
    logit = head.mlp(torch.cat([question.mean(0), statistics]))[0]
    return head.low + (head.high - head.low) * torch.sigmoid(logit)


def count_tokens(ratio: Tensor, m: int, n_max: int) -> int:
    """Return min(max(1, ceil(ratio * M)), n_max), and 1 for a ratio of NaN."""
    count = float(torch.ceil(ratio.detach() * m))
    return min(max(1, 0 if math.isnan(count) else int(count)), n_max)


def newton(r: Tensor, count: Tensor, tau: float, steps: int = STEPS) -> Tensor:
    """Return the t at which sum(sigmoid((r - t) / tau)) equals ``count`` if the unrolled iteration converges."""
    t = r.median()  # the lower median
    for _ in range(steps):
        s = torch.sigmoid((r - t) / tau)
        t = t - (s.sum() - count) / (-(s * (1 - s)).sum() / tau + 1e-6)
    return t


def sample_gate(r: Tensor, count: Tensor, tau: float, gumbel: Tensor | None = None) -> Gate:
    """Sample a straight-through Gumbel gate; if it drops all tokens, the token with the highest score is kept.

    Args:
        r: (M,) scores.
        count: scalar, number of tokens for which the threshold is computed.
        tau: temperature of threshold and relaxation.
        gumbel: (M, 2) noise; None samples it.
    """
    t = newton(r, count, tau)
    logits = torch.stack([r - t, torch.zeros_like(r)], -1)
    if gumbel is None:
        gumbel = -torch.empty_like(logits).exponential_().log()
    soft = ((logits + gumbel) / tau).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 2).to(soft.dtype)[:, 0]
    if not bool(hard.any()):
        hard = F.one_hot(r.argmax(), len(r)).to(soft.dtype)
    keep = soft[:, 0]
    return Gate(t, logits, keep, hard - keep.detach() + keep)


def top_rows(r: Tensor, n: int) -> Tensor:
    """Return the rows of the n highest scores, ascending; ties, undefined in the release, go to the lower row."""
    return exact_topk(r, n)


def gate_tokens(x: Tensor, gate: Gate) -> Tensor:
    """Return the (n, D) kept tokens multiplied by their gates, through which the gates get their gradient."""
    return (gate.hard[:, None] * x)[gate.rows]


def reencode(blocks: nn.ModuleList, videos: Sequence[Tensor]) -> list[Tensor]:
    """Apply self-attention to the tokens of each video (n_b, D), padded to the longest with copies of the last token.

    There is no mask, so the copies are attended to, and the result for a video depends on the other videos of its
    batch. A video by itself is not padded.
    """
    layers: Any = blocks
    longest = max(map(len, videos))
    out = []
    for tokens in videos:
        padded = torch.cat([tokens, tokens[-1:].expand(longest - len(tokens), -1)])
        for block in layers:
            padded = block.reencode(padded)
        out.append(padded[: len(tokens)])
    return out


def budget_costs(ratios: Tensor, m: int, n_max: int, mean: float) -> dict[str, Tensor]:
    """Return the unweighted losses of the (B,) ratios of a batch, for ratio * M tokens even if it exceeds ``n_max``."""
    fraction = ratios * m / n_max
    return {"flops": fraction.square().mean(), "kv": fraction.mean(), "smooth": (ratios - mean).square().mean()}
