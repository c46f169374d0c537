"""Differentiable threshold that keeps a given number of tokens in expectation (QTSplus, arXiv 2511.11910).

The release starts Newton's method at the median and differentiates through its iterations; at small temperatures it
diverges. Here the root is bracketed, so that it is always found, and differentiated implicitly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MAX_STEPS = 100  # enough for bisection alone to reach the resolution of fp64


def soft_threshold(scores: Tensor, count: Tensor, tau: float) -> Tensor:
    """Return the scalar t at which sum(sigmoid((scores - t) / tau)) = count.

    Args:
        scores: (N,) finite, fp32 or wider.
        count: scalar in (0, N); may require a gradient.
        tau: temperature, positive.
    """
    threshold: Tensor = _Threshold.apply(scores, count, tau)
    return threshold


class _Threshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, count: Tensor, tau: float) -> Tensor:
        wide, target = scores.detach().double(), float(count)
        # If all scores were equal, the root would be score - shift; the two extreme scores give a bracket.
        shift = tau * (math.log(target) - math.log(len(scores) - target))
        low, high = float(wide.min()) - shift, float(wide.max()) - shift
        t = (low + high) / 2
        for _ in range(MAX_STEPS):
            gate = torch.sigmoid((wide - t) / tau)
            excess = float(gate.sum()) - target
            low, high = (t, high) if excess > 0 else (low, t)
            slope = float((gate * (1 - gate)).sum()) / tau
            newton = t + excess / slope if slope > 0 else math.inf
            following = newton if low < newton < high else (low + high) / 2
            if following == t or high - low <= 1e-15 * max(abs(low), abs(high)):
                break
            t = following
        ctx.save_for_backward(scores, scores.new_tensor(t, dtype=torch.float64))
        ctx.tau = tau
        return scores.new_tensor(t)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        scores, t = ctx.saved_tensors
        x = (scores.double() - t) / ctx.tau
        slope = logsigmoid(x) + logsigmoid(-x)  # log of s (1 - s), which avoids 0 / 0 if all gates are closed
        by_score = slope.softmax(-1)
        by_count = -ctx.tau * torch.exp(-slope.logsumexp(-1))
        limit = torch.finfo(grad.dtype).max
        return (grad * by_score).to(grad.dtype), (grad * by_count).clamp(-limit, limit).to(grad.dtype), None
