"""The prompt side of compression: which columns stay, how the batch is padded again, what moves with the columns.

Dimensions: B rows, L columns before, L' columns after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..tokens import VideoTokens
from .compaction import Compaction, Side, compact
from .family import Encoded, Family

Positions = Literal["preserve", "compact"]


def prompt_mask(inputs: Mapping[str, Any]) -> Tensor:
    """(B, L) attention mask of the inputs, ones where they have none."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def choose_columns(
    ids: Tensor, where: Tensor, clips: list[Encoded], tokens: list[VideoTokens]
) -> tuple[Tensor, list[Tensor]]:
    """(B, L) bool, the columns that stay, and for each video the (N, D) features that fill its placeholders.

    Args:
        where: (P, 2) row and column of every placeholder, in order.
    """
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[where[:, 0], where[:, 1]] = False
    start, kept, features = 0, [], []
    for clip, out in zip(clips, tokens, strict=True):
        on_grid = clip.on_grid.to(ids.device)
        slots = torch.cat([on_grid.nonzero()[out.index, 0], (~on_grid).nonzero()[:, 0]])
        slots, order = slots.sort()
        kept.append(slots + start)
        features.append(torch.cat([out.features, clip.extra.to(out.features)])[order])
        start += len(clip)
    stays = where[torch.cat(kept)]
    keep[stays[:, 0], stays[:, 1]] = True
    return keep, features


def shorten(
    inputs: Mapping[str, Any], keep: Tensor, where: Tensor, features: list[Tensor], rows: list[int], generation: bool
) -> tuple[Compaction, list[Tensor]]:
    """The map to the shorter batch, and the features in the groups that the host is to get.

    Args:
        keep: (B, L) bool, columns that stay.
        where: (P, 2) row and column of every placeholder.
        rows: row of each video.
    """
    mask, labels = prompt_mask(inputs), inputs.get("labels")
    real = mask != 0
    real[where[:, 0], where[:, 1]] = True
    real = real if labels is None else real | (labels != -100)
    side: Side = "left" if generation else "right"
    if bool((mask[:, 0] == 0).any()):  # padding stays on the side where the caller has it
        side = "left"
    elif bool((mask[:, -1] == 0).any()):
        side = "right"
    if not generation or len({len(feature) for feature in features}) == 1:
        return compact(keep, real, side), features
    groups, filler = _group_rows(features, rows, len(keep), side)
    return compact(keep, real, side, filler), groups


def _group_rows(features: list[Tensor], rows: list[int], batch: int, side: Side) -> tuple[list[Tensor], Tensor]:
    """One group a row, filled up to one length with zeros: beam search repeats groups, and tells them apart so."""
    groups = {row: torch.cat([f for f, r in zip(features, rows, strict=True) if r == row]) for row in sorted(set(rows))}
    longest = max(len(group) for group in groups.values())
    filler = torch.zeros(batch, dtype=torch.long, device=features[0].device)
    for row, group in groups.items():
        missing = longest - len(group)
        zeros = group.new_zeros(missing, group.shape[1])
        groups[row] = torch.cat([zeros, group] if side == "left" else [group, zeros])
        filler[row] = missing
    return list(groups.values()), filler


def move_columns(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    compaction: Compaction,
    positions: Positions,
    generation: bool,
) -> dict[str, Tensor]:
    """The arguments with one value a column, shortened."""
    ids, mask = inputs["input_ids"], prompt_mask(inputs)
    new = {
        name: compaction.gather(inputs[name], fill)
        for name, fill in family.columns.items()
        if inputs.get(name) is not None
    }
    new["input_ids"] = compaction.gather(ids, family.pad_id(model))
    new["input_ids"] = new["input_ids"].masked_fill(compaction.filler, family.placeholder_id(model))
    new["attention_mask"] = compaction.gather(mask, 0)  # never None: without it gaps in the positions look like packing
    if positions == "compact":
        new["position_ids"] = family.positions(model, new["input_ids"], new["attention_mask"], generation)
    else:
        before = inputs.get("position_ids")
        before = family.positions(model, ids, mask, generation) if before is None else before
        new["position_ids"] = compaction.gather(before.expand(*before.shape[:-2], *ids.shape), 0)
    return new
