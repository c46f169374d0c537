"""Bipartite matching of tokens as in ToMe (arXiv 2210.09461): rows of even number merge into rows of odd number.

Dimensions: B sets of n rows of width D, s = number of sources.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .similarity import RESOLUTION, TINY

BLOCK = 2**21  # entries of the similarity matrix that exist at a time


@torch.no_grad()
def bipartite_match(metric: Tensor, protected: int = 0) -> tuple[Tensor, Tensor]:
    """Pair each row of even number with the row of odd number most similar to it, by cosine.

    Args:
        metric: (B, n, D) rows whose squares fit in fp32; a zero row has similarity 0 with everything.
        protected: number of rows at the start, e.g. class tokens, that belong to no pair.

    Returns:
        (B, s) int64 sources and (B, s) int64 targets, the most similar pair first, ties to the lower row; s is 0 if
        there is no row to merge into.
    """
    device = metric.device
    x = metric.to(torch.promote_types(metric.dtype, torch.float32))
    odd = protected % 2
    a, b = x[:, protected + odd :: 2], x[:, protected + 1 - odd :: 2]
    if b.shape[1] == 0:
        none = torch.empty(len(x), 0, dtype=torch.long, device=device)
        return none, none
    with torch.autocast(device.type, enabled=False):
        value, partner = _most_similar(a, b)
    order = torch.sort(value, dim=1, descending=True, stable=True).indices
    return protected + odd + 2 * order, protected + 1 - odd + 2 * partner.gather(1, order)


def _most_similar(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (B, s) similarity of each row of ``a`` with its most similar row of ``b``, and the number of it."""
    columns = b.transpose(1, 2)
    scale = _inverse_norm(b)[:, None]
    found = []
    for rows in a.split(max(1, BLOCK // max(1, len(b) * b.shape[1])), dim=1):
        similarity = torch.matmul(rows, columns).mul_(scale).mul_(_inverse_norm(rows)[..., None] / RESOLUTION)
        found.append(similarity.round_().max(-1))
    return torch.cat([best.values for best in found], dim=1), torch.cat([best.indices for best in found], dim=1)


def _inverse_norm(x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1)
    return torch.where(norm > TINY, 1 / norm, 0)


@torch.no_grad()
def merge_down(sums: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Merge rows in rounds of bipartite matching, at most half of them in a round, until k are left.

    Args:
        sums: (n, D) sums over the tokens that each row represents: they have the direction of the weighted mean.
        k: number of rows to leave, 1 <= k <= n.

    Returns:
        (k, D) sums of the remaining rows, in the order of these, and the (n,) int64 row into which each row has gone.
    """
    groups = torch.arange(len(sums), device=sums.device)
    while len(sums) > k:
        source, target = bipartite_match(sums[None])
        merges = min(len(sums) - k, len(sums) // 2)
        source, target = source[0, :merges], target[0, :merges]
        kept = torch.ones(len(sums), dtype=torch.bool, device=sums.device).index_fill_(0, source, False)
        row = kept.cumsum(0) - 1
        row[source] = row[target]
        sums = sums[kept].index_add_(0, row[source], sums[source])
        groups = row[groups]
    return sums, groups
