"""The released code of VisionSelector: scores, the differentiable top-k mask and its loss (arXiv 2510.16598).

The release compares all pairs of tokens, and multiplies all tokens by the mask while it trains. At inference it keeps
the k highest and scales nothing. Its scores are linear in the tokens, so that one product with a mean is enough.

Dimensions: N tokens of width D, k of them kept, h width of the scorer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framefold.adapters.layers.soft_threshold import soft_threshold
from framefold.adapters.ops.selection import exact_topk


def pair_scores(x: Tensor, query: nn.Linear, key: nn.Linear) -> Tensor:
    """Return the (N,) mean product of each token's query with the keys of all tokens, as the release computes it."""
    return (query(x) @ key(x).transpose(0, 1) / query.out_features**0.5).mean(-1)


def linear_scores(x: Tensor, query: nn.Linear, key: nn.Linear) -> Tensor:
    """Return the same as :func:`pair_scores` from one product per token, with the mean key."""
    return query(x) @ key(x.mean(0)) / query.out_features**0.5


def soft_top_k(scores: Tensor, k: int) -> Tensor:
    """Return the (N,) sigmoid of scores minus the threshold at which the sum is k, 0 < k < N; differentiable."""
    return torch.sigmoid(scores - soft_threshold(scores, scores.new_tensor(float(k)), 1.0))


def hardness_loss(mask: Tensor, scores: Tensor, k: int) -> Tensor:
    """Return the cross-entropy of a soft mask (N,) against the k highest scores, a scalar."""
    return F.binary_cross_entropy(mask, torch.zeros_like(mask).index_fill(0, exact_topk(scores.detach(), k), 1.0))
