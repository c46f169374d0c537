"""The released steps of FrameFusion, which it runs in the layers of the language model (arXiv 2501.01986).

After the attention of each layer, visual tokens are merged over time; once little is left to merge, the next layer
prunes by its attention. The first step alone, on the tokens before the language model, is ``variant="official"`` of
:class:`~framefold.adapters.compressors.framefusion.FrameFusion`.
Dimensions: L columns of the prompt, I of them visual tokens with a place in the frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from framefold.adapters.ops.links import strongest_links, tree_groups
from framefold.adapters.ops.segments import segment_mean
from framefold.adapters.ops.similarity import TINY
from framefold.errors import InputError

from .st_simdiff import LAYERS, drop_ratio

TEXT, IGNORED = -1, -2  # places of columns that are no visual token, or a visual one that is never merged


@dataclass(frozen=True)
class FusionState:
    """What the steps so far have done.

    Attributes:
        dropped: fraction of the visual tokens that each merging step removed, in order.
        merged: whether merging is finished.
        pruned: whether pruning is finished, too.
    """

    dropped: tuple[float, ...] = ()
    merged: bool = False
    pruned: bool = False


def fusion_step(
    hidden: Tensor,
    places: Tensor,
    attention: Tensor | None,
    state: FusionState,
    cost: float,
    threshold: float = 0.6,
    least: float = 0.1,
    layers: int = LAYERS,
) -> tuple[Tensor, Tensor, FusionState]:
    """Merge, prune, or do nothing, as the release does in one layer.

    Args:
        hidden: (L, D) states after the attention of the layer.
        places: (L,) int64 place of each column in its frame, or ``TEXT`` or ``IGNORED``.
        attention: (..., L) softmax attention of the last column, by head; only pruning needs it.
        state: result of the previous layer; initially ``FusionState()``.
        cost: mean fraction of the visual tokens that a layer processes.
        threshold: cosine similarity from which tokens are merged.
        least: merging is finished after a step that removes a smaller fraction.
        layers: number of layers of the language model; the release assumes 28.

    Returns:
        (L', D) states of the remaining columns, their (L',) int64 columns, and the new state.

    Raises:
        BudgetError: the steps so far have already exceeded the cost.
        InputError: a pruning step without attention.
    """
    columns = torch.arange(len(places), device=places.device)
    if state.pruned:
        return hidden, columns, state
    need = drop_ratio(state.dropped, cost, layers)
    if state.merged:
        if attention is None:
            raise InputError("framefusion prunes in this layer: pass the attention of its last column")
        kept = prune_columns(attention, places, need)
        return hidden[kept], kept, replace(state, pruned=True)
    parent, fraction, enough = merge_parents(hidden, places, need, threshold)
    kept = (parent < 0).nonzero()[:, 0]
    hidden = segment_mean(hidden, torch.ones_like(columns), tree_groups(parent), len(kept))
    if enough:
        return hidden, kept, replace(state, merged=True, pruned=True)
    return hidden, kept, replace(state, dropped=(*state.dropped, fraction), merged=fraction < least)


def merge_parents(hidden: Tensor, places: Tensor, need: float, threshold: float) -> tuple[Tensor, float, bool]:
    """Decide which tokens join the previous token at their place.

    All similar tokens join it; if that is more than needed, only the most similar ones. A zero vector joins none.

    Args:
        hidden: (L, D) states.
        places: (L,) int64, see :func:`fusion_step`.
        need: fraction of the visual tokens to remove.
        threshold: cosine similarity from which tokens are merged.

    Returns:
        (L,) int64 column that each column joins, -1 if it stays; the similar fraction of the visual tokens, of which
        ignored ones count, too; and whether that is enough.
    """
    order, similarity = place_similarities(hidden, places)
    previous = torch.full_like(places, -1)
    previous[order[1:]] = torch.where(places[order[1:]] == places[order[:-1]], order[:-1], -1)
    to_previous = torch.full_like(places, -2, dtype=similarity.dtype)
    to_previous[order] = similarity
    visual = int((places != TEXT).sum())
    similar = to_previous >= threshold
    fraction = int(similar.sum()) / visual if visual else 0.0
    if fraction < need:
        return torch.where(similar, previous, -1), fraction, False
    return strongest_links(previous, to_previous, int(need * visual)), fraction, True


def place_similarities(hidden: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (I,) columns of the visual tokens by place and then time, and their (I,) similarities.

    The similarity is the cosine with the previous token at the same place, -2 where there is none, and 0 for a zero
    vector, where the release has NaN.
    """
    rows = (places >= 0).nonzero()[:, 0]
    order = rows[torch.sort(places[rows], stable=True).indices]
    x = hidden[order].to(torch.promote_types(hidden.dtype, torch.float32))
    norm = torch.linalg.vector_norm(x, dim=-1)
    product = norm[1:] * norm[:-1]
    cosine = torch.where(product > TINY, (x[1:] * x[:-1]).sum(-1) / product.clamp_min(TINY), 0)
    similarity = x.new_full((len(order),), -2)
    similarity[1:] = torch.where(places[order[1:]] == places[order[:-1]], cosine, -2)
    return order, similarity


def prune_columns(attention: Tensor, places: Tensor, need: float) -> Tensor:
    """Keep all text and the visual columns with the highest attention of the last column.

    Args:
        attention: (..., L) softmax attention, averaged over its leading dimensions.
        places: (L,) int64, see :func:`fusion_step`.
        need: fraction of the visual columns to remove.

    Returns:
        (L',) int64 columns, ascending.
    """
    visual = (places != TEXT).nonzero()[:, 0]
    received = attention.float().reshape(-1, len(places)).mean(0)[visual]
    order = torch.sort(received, descending=True, stable=True).indices
    kept = places == TEXT
    kept[visual[order[: round(len(visual) * (1 - need))]]] = True
    return kept.nonzero()[:, 0]
