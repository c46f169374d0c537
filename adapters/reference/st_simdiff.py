"""ST-SimDiff as released: which tokens its two stages drop, without an exact budget (arXiv 2605.22158).

Stage 1 thins out the communities of the space-time graph before the language model; stage 2 prunes by attention inside
of it. The release is described in words in the house's specification; similarities here are fp32 and ties go to the
lower index, where the release leaves both to the host's dtype and to unstable sorts.
Dimensions: N video tokens, C components, L columns of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.ops.selection import rank_in_group
from framefold.errors import BudgetError, InputError

LAYERS = 28  # the release assumes a language model of so many

Strategy = Literal[2, 3]


def drop_ratio(dropped: Sequence[float], cost: float) -> float:
    """Fraction to drop next, so that the mean over the layers of the tokens they see comes to ``cost``.

    Args:
        dropped: fractions that were dropped already, one a layer from the first.

    Raises:
        BudgetError: the layers that are through have used up the cost already.
    """
    left, used = 1.0, 0.0
    for fraction in dropped:
        left *= 1 - fraction
        used += left
    rest = LAYERS * cost - used
    if rest < 0:
        raise BudgetError(
            f"a cost of {cost:g} is too small: the first layers have seen {used:g} layers' worth of tokens"
        )
    return max(0.0, 1 - rest / ((LAYERS - len(dropped)) * left))


def stage_1(
    labels: Tensor, total: Tensor, centrality: Tensor, event: Tensor, cost: float, strategy: Strategy = 3
) -> tuple[Tensor, list[float]]:
    """Thin out communities, the most alike first, until the next would drop too much.

    Args:
        labels: (N,) int64 component of each token; a component of one has no edge.
        total: (C,) sum of the cosines of all pairs of members, each with itself included.
        centrality: (N,) mean cosine of each token with its component.
        event: (N,) bool, tokens that survive whatever their centrality.
        cost: mean fraction of the tokens that a layer is to see.
        strategy: order of the components: 3 by mean cosine of different members, 2 by a sum that grows with size.

    Returns:
        (N,) bool, the survivors; and the fractions dropped so far, for :func:`stage_2`: none where there was no edge.
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
    fits = ((before + quota[order]).double() / n <= q).long().cumprod(0).bool()  # the first that does not ends it
    thinned = torch.zeros_like(real)
    thinned[order] = fits
    drop &= thinned[labels]
    return ~drop, [int(drop.sum()) / n] if bool(real.any()) else []


def stage_2(attention: Tensor, video: Tensor, cost: float, dropped: Sequence[float]) -> Tensor:
    """Keep the video tokens that the last column of the prompt attends to most, and all of the text.

    Args:
        attention: (heads, L) softmax attention of the last column, over what stage 1 left.
        video: (L,) bool, which of those columns are video tokens.
        cost, dropped: as :func:`stage_1` took and returned them.

    Returns:
        (L,) bool, the survivors.

    Raises:
        InputError: misshapen arguments.
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
