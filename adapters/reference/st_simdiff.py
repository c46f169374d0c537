"""The two stages of the released ST-SimDiff, which do not meet an exact budget (arXiv 2605.22158).

Stage 1 thins the communities of the space-time graph before the language model; stage 2 prunes by attention inside it.
Unlike the release, similarities are fp32 instead of the host's dtype, and ties go to the lower index instead of being
left to unstable sorts.
Dimensions: N video tokens, C components, L columns of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.ops.selection import rank_in_group
from framefold.errors import BudgetError, InputError

LAYERS = 28  # number of layers that the release assumes for the language model

Strategy = Literal[2, 3]


def drop_ratio(dropped: Sequence[float], cost: float, layers: int = LAYERS) -> float:
    """Return the fraction to drop next, so that layers process a fraction ``cost`` of the tokens on average.

    Args:
        dropped: fractions dropped so far, one for each layer from the first.
        cost: mean fraction of the tokens that a layer processes.
        layers: number of layers of the language model.

    Raises:
        BudgetError: the layers so far have already exceeded the cost.
    """
    left, used = 1.0, 0.0
    for fraction in dropped:
        left *= 1 - fraction
        used += left
    rest = layers * cost - used
    if rest < 0:
        raise BudgetError(
            f"a cost of {cost:g} is too small: the first layers have already processed the tokens of {used:g} layers"
        )
    return max(0.0, 1 - rest / ((layers - len(dropped)) * left))


def stage_1(
    labels: Tensor, total: Tensor, centrality: Tensor, event: Tensor, cost: float, strategy: Strategy = 3
) -> tuple[Tensor, list[float]]:
    """Thin the communities, most similar ones first, until the next one would drop too many tokens.

    Args:
        labels: (N,) int64 component of each token; a component of one token has no edge.
        total: (C,) sum of the cosines of all pairs of members, including each member with itself.
        centrality: (N,) mean cosine of each token with its component.
        event: (N,) bool, tokens that are kept regardless of their centrality.
        cost: mean fraction of the tokens that a layer processes.
        strategy: order of the components; 3 is by mean cosine of different members, 2 by a sum that grows with size.

    Returns:
        (N,) bool, the kept tokens; and the fractions dropped so far, for :func:`stage_2`, empty if there is no edge.
    """
    n = len(labels)
    if cost >= 1:
        return torch.ones_like(event), []
    q = drop_ratio([], cost)
    sizes = torch.bincount(labels)
    members, real = sizes.double(), sizes > 1
    pairs = (members - 1).clamp(min=1)
    score = total.double() / 2 / pairs if strategy == 2 else (total - members) / (members * pairs)
    quota = torch.where(real, (members * q).ceil(), 0).long()
    last = rank_in_group(-centrality, labels) < quota[labels]  # the least central
    drop = last & ~event
    dropped = torch.bincount(labels[drop], minlength=len(sizes))
    order = torch.sort(torch.where(real, score, -torch.inf), descending=True, stable=True).indices
    before = dropped[order].cumsum(0) - dropped[order]
    fits = ((before + quota[order]).double() / n <= q).long().cumprod(0).bool()  # up to the first that does not fit
    thinned = torch.zeros_like(real)
    thinned[order] = fits
    drop &= thinned[labels]
    return ~drop, [int(drop.sum()) / n] if bool(real.any()) else []


def stage_2(attention: Tensor, video: Tensor, cost: float, dropped: Sequence[float]) -> Tensor:
    """Keep the video tokens that the last column of the prompt attends to most, and all text.

    Args:
        attention: (heads, L) softmax attention of the last column to the columns that stage 1 kept.
        video: (L,) bool, whether a column is a video token.
        cost: the argument of :func:`stage_1`.
        dropped: the fractions that :func:`stage_1` returned.

    Returns:
        (L,) bool, the kept columns.

    Raises:
        InputError: an argument has the wrong shape.
        BudgetError: see :func:`drop_ratio`.
    """
    if attention.ndim != 2 or video.dtype != torch.bool or attention.shape[1:] != video.shape:
        raise InputError(f"attention must be (heads, L) and video (L,) bool, got {attention.shape} and {video.shape}")
    rows = video.nonzero()[:, 0]
    keep = round(len(rows) * (1 - drop_ratio(dropped, cost)))
    order = torch.sort(attention.float().mean(0)[rows], descending=True, stable=True).indices
    out = ~video
    out[rows[order[:keep]]] = True
    return out
