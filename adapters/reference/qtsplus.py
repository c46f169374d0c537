"""What the released code of QTSplus does (arXiv 2511.11910, release 5cc24bc), faults and all.

The faults: while training, the gate keeps another number of tokens than the ratio says, and nearly without regard to
the scores; ``n_max`` binds at inference only; the threshold comes from unrolled Newton steps, which diverge at small
temperatures; entropy and ratio have the dtype of the tokens (fp16: NaN, then one token); padding of a batch is attended
to; v_proj, o_proj and feed-forward of the last scoring block never get a gradient.

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
class Scored:
    """The scoring of one video.

    Attributes:
        r: (M,) largest attention weight of each token over heads and words, of the last block.
        attention: per block, (h, L, M) weights.
        question: per block, (L, D) words after it.
    """

    r: Tensor
    attention: list[Tensor]
    question: list[Tensor]


@dataclass(frozen=True)
class Gate:
    """The stochastic gate of one video while training.

    Attributes:
        t: scalar threshold.
        logits: (M, 2) of keeping and of dropping; unlike ``t``, not in units of the temperature.
        soft: (M,) relaxed gate, whose gradient is taken.
        hard: (M,) gate, 0 or 1 with the gradient of ``soft``.
    """

    t: Tensor
    logits: Tensor
    soft: Tensor
    hard: Tensor

    @property
    def rows(self) -> Tensor:
        """Rows that are kept, ascending."""
        return (self.hard.detach() > 0.5).nonzero()[:, 0]


class RunningMean:
    """The release's mean of the ratios of all calls so far, inference too: a number that no checkpoint holds."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, ratios: Tensor) -> float:
        """The mean, with the (B,) ratios of this call."""
        self.total += float(ratios.detach().sum())
        self.count += len(ratios)
        return self.total / self.count


def score(blocks: Iterable[Any], x: Tensor, question: Tensor) -> Scored:
    """Cross-attention of the question (L, D) to the tokens (M, D), block after block (:class:`LMBlock`)."""
    attention, words = [], []
    for block in blocks:
        question, log_attention = block(question, x)
        attention.append(log_attention.exp().to(x.dtype))
        words.append(question)
    return Scored(attention[-1].amax((0, 1)), attention, words)


def entropy(r: Tensor) -> Tensor:
    """Entropy of the scores as shares of their sum; NaN in fp16, where the guard of the logarithm is 0."""
    share = r / (r.sum() + EPS)
    return -(share * (share + EPS).log()).sum()


def predict_ratio(head: BudgetHead, question: Tensor, r: Tensor) -> Tensor:
    """The ratio from mean word, ln M, largest score and entropy, as they are; a scalar."""
    facts = torch.stack([r.new_tensor(math.log(max(len(r), 1))), r.max(), entropy(r).clamp(min=0)])
    logit = head.mlp(torch.cat([question.mean(0), facts]))[0]
    return head.low + (head.high - head.low) * torch.sigmoid(logit)


def count_tokens(ratio: Tensor, m: int, n_max: int) -> int:
    """min(max(1, ceil(ratio * M)), n_max); a ratio of NaN gives 1."""
    wanted = float(torch.ceil(ratio.detach() * m))
    return min(max(1, 0 if math.isnan(wanted) else int(wanted)), n_max)


def newton(r: Tensor, count: Tensor, tau: float, steps: int = STEPS) -> Tensor:
    """The t at which sum(sigmoid((r - t) / tau)) would be ``count`` if the iteration converged; steps are unrolled."""
    t = r.median()  # the lower one
    for _ in range(steps):
        s = torch.sigmoid((r - t) / tau)
        t = t - (s.sum() - count) / (-(s * (1 - s)).sum() / tau + 1e-6)
    return t


def draw_gate(r: Tensor, count: Tensor, tau: float, gumbel: Tensor | None = None) -> Gate:
    """Straight-through Gumbel gate; where it drops all tokens, the one of highest score stays.

    Args:
        r: (M,) scores.
        count: scalar, tokens that the threshold is for.
        tau: temperature of threshold and relaxation.
        gumbel: (M, 2) noise; None: drawn.
    """
    t = newton(r, count, tau)
    logits = torch.stack([r - t, torch.zeros_like(r)], -1)
    if gumbel is None:
        gumbel = -torch.empty_like(logits).exponential_().log()
    soft = ((logits + gumbel) / tau).softmax(-1)
    drawn = F.one_hot(soft.argmax(-1), 2).to(soft.dtype)[:, 0]
    if not bool(drawn.any()):
        drawn = F.one_hot(r.argmax(), len(r)).to(soft.dtype)
    keep = soft[:, 0]
    return Gate(t, logits, keep, drawn - keep.detach() + keep)


def top_rows(r: Tensor, n: int) -> Tensor:
    """Rows of the n highest scores, ascending; the release leaves ties to ``topk``, here the lower row wins."""
    return exact_topk(r, n)


def gather(x: Tensor, gate: Gate) -> Tensor:
    """(n, D) kept tokens times their gates, which is where the gate gets its gradient."""
    return (gate.hard[:, None] * x)[gate.rows]


def reencode(blocks: nn.ModuleList, videos: Sequence[Tensor]) -> list[Tensor]:
    """Self-attention of the tokens of each video (n_b, D), padded to the longest by copies of its last token.

    There is no mask, so the copies are attended to: what a video becomes depends on its batch mates. Alone, nothing is
    padded.
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


def costs(ratios: Tensor, m: int, n_max: int, mean: float) -> dict[str, Tensor]:
    """Unweighted losses of the (B,) ratios of a batch: of ratio * M, whether or not it is more than ``n_max``."""
    share = ratios * m / n_max
    return {"flops": share.square().mean(), "kv": share.mean(), "smooth": (ratios - mean).square().mean()}
