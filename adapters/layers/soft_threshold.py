"""The soft threshold that keeps a given number of tokens in expectation, differentiable (QTSplus, arXiv 2511.11910).

The release iterates Newton's method from the median and differentiates through the iterations; for small temperatures
it diverges. Here the root is bracketed, so it is always found, and differentiated implicitly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

STEPS = 100  # of bisection alone these halve the bracket to nothing


def threshold(scores: Tensor, count: Tensor, tau: float) -> Tensor:
    """The t at which sum(sigmoid((scores - t) / tau)) = count; scalar.

    Args:
        scores: (N,) finite, fp32 or wider.
        count: scalar in (0, N), may need a gradient.
        tau: temperature, positive.
    """
    found: Tensor = _Threshold.apply(scores, count, tau)
    return found


class _Threshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, count: Tensor, tau: float) -> Tensor:
        wide, wanted = scores.detach().double(), float(count)
        # With all scores alike the root is score - shift: the two extreme scores give a bracket.
        shift = tau * (math.log(wanted) - math.log(len(scores) - wanted))
        low, high = float(wide.min()) - shift, float(wide.max()) - shift
        t = (low + high) / 2
        for _ in range(STEPS):
            gate = torch.sigmoid((wide - t) / tau)
            excess = float(gate.sum()) - wanted
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
        slope = logsigmoid(x) + logsigmoid(-x)  # log of s (1 - s): no 0 / 0 where all gates are shut
        by_score = slope.softmax(-1)
        by_count = -ctx.tau * torch.exp(-slope.logsumexp(-1))
        limit = torch.finfo(grad.dtype).max
        return (grad * by_score).to(grad.dtype), (grad * by_count).clamp(-limit, limit).to(grad.dtype), None
