"""One step of ToMe's merging, with the order of rows that ToMe, TempMe and LongVLM release (arXiv 2210.09461).

Dimensions: B sets of n rows of width D, s sources of which r are merged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.ops.bipartite import bipartite_match
from framefold.adapters.ops.similarity import TINY


def tome_step(
    x: Tensor,
    size: Tensor,
    metric: Tensor,
    merges: int,
    protected: int = 0,
    by_index: bool = False,
    rounded: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the most similar pairs of rows into size-weighted means.

    Args:
        x: (B, n, D) features.
        size: (B, n, 1) number of tokens that each row represents.
        metric: (B, n, d) rows that are matched by cosine.
        merges: number r of pairs; at most half of the unprotected rows are merged.
        protected: number of rows at the start that are never merged.
        by_index: keep the rows that were not merged in their order; otherwise the most similar ones come first.
        rounded: match with :func:`~framefold.adapters.ops.bipartite.bipartite_match`, where rounding decides nothing.

    Returns:
        (B, n - r, D) means in the order [protected; sources that were not merged; targets], (B, n - r, 1) sizes, and
        the (B, n) int64 row of the output into which each row has gone. Nothing is changed if r is 0.
    """
    ids = torch.arange(x.shape[1], device=x.device)
    merges = min(merges, (x.shape[1] - protected) // 2)
    if merges <= 0:
        return x, size, ids.expand(len(x), -1)
    source, target = (bipartite_match if rounded else _match)(metric, protected)
    left = source[:, merges:].sort(dim=1).values if by_index else source[:, merges:]
    first = ids[:protected].expand(len(x), -1)
    targets = ids[protected + 1 - protected % 2 :: 2].expand(len(x), -1)
    layout = torch.cat([first, left, targets], dim=1)
    row = torch.zeros_like(ids).expand(len(x), -1).scatter(1, layout, ids[: layout.shape[1]].expand_as(layout))
    row = row.scatter(1, source[:, :merges], row.gather(1, target[:, :merges]))
    shape = (len(x), layout.shape[1])
    total = size.new_zeros(*shape, 1).scatter_add(1, row[..., None], size)
    mean = x.new_zeros(*shape, x.shape[-1]).scatter_add(1, row[..., None].expand_as(x), x * size) / total
    return mean, total, row


@torch.no_grad()
def _match(metric: Tensor, protected: int) -> tuple[Tensor, Tensor]:
    """Return sources and targets as ``bipartite_match``, but compare all digits of the similarities.

    The releases do so, which makes a difference where almost all rows are alike.
    """
    x = metric.to(torch.promote_types(metric.dtype, torch.float32))
    unit = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(TINY)
    even, odd = protected + protected % 2, protected + 1 - protected % 2
    with torch.autocast(metric.device.type, enabled=False):
        best, partner = (unit[:, even::2] @ unit[:, odd::2].mT).max(-1)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    return even + 2 * order, odd + 2 * partner.gather(1, order)
