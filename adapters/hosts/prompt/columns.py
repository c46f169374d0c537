"""The prompt side of compression: which columns stay, how the batch is padded again, what moves with the columns.

Dimensions: B rows, L columns before, L' columns after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family

from .compaction import Compaction, Side, compact

Positions = Literal["preserve", "compact"]


def prompt_mask(inputs: Mapping[str, Any]) -> Tensor:
    """(B, L) attention mask of the inputs, ones where they have none."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def choose_columns(
    ids: Tensor, where: Tensor, clips: list[Encoded], tokens: list[VideoTokens | None]
) -> tuple[Tensor, list[list[Tensor]]]:
    """(B, L) bool, the columns that stay, and what fills the placeholders among them: per video, features and layers.

    Args:
        where: (P, 2) row and column of every placeholder, in order.
        tokens: what the compressor made of each video; None for stills.
    """
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[where[:, 0], where[:, 1]] = False
    start, kept = 0, []
    for clip, out in zip(clips, tokens, strict=True):
        kept.append(clip.slots(out).to(ids.device) + start)
        start += len(clip)
    stays = where[torch.cat(kept)]
    keep[stays[:, 0], stays[:, 1]] = True
    return keep, [clip.streams(out) for clip, out in zip(clips, tokens, strict=True)]


def shorten(
    inputs: Mapping[str, Any], keep: Tensor, where: Tensor, streams: list[list[Tensor]], rows: list[int], left: bool
) -> tuple[Compaction, list[list[Tensor]]]:
    """The map to the shorter batch, and for features and each layer the groups that the host is to get.

    Args:
        keep: (B, L) bool, columns that stay.
        where: (P, 2) row and column of every placeholder.
        streams: per video, features and layers.
        rows: row of each video.
        left: prepare for ``generate``: pad on the left unless the caller has padding on the right, and make groups of
            one length, because beam search repeats groups and tells them apart so.
    """
    mask, labels = prompt_mask(inputs), inputs.get("labels")
    real = mask != 0
    real[where[:, 0], where[:, 1]] = True
    real = real if labels is None else real | (labels != -100)
    side: Side = "left" if left else "right"
    if bool((mask[:, 0] == 0).any()):  # padding stays on the side where the caller has it
        side = "left"
    elif bool((mask[:, -1] == 0).any()):
        side = "right"
    layers = [list(layer) for layer in zip(*streams, strict=True)]
    lengths = [len(features) for features in layers[0]]
    if not left or len(set(lengths)) == 1:
        return compact(keep, real, side), layers
    filler = _missing(lengths, rows, len(keep))
    return compact(keep, real, side, filler.to(keep.device)), [_group_rows(layer, rows, side) for layer in layers]


def _missing(lengths: list[int], rows: list[int], batch: int) -> Tensor:
    """(B,) placeholders that each row with a video lacks to have as many as the one with most."""
    count = torch.zeros(batch, dtype=torch.long)
    count.index_add_(0, torch.tensor(rows), torch.tensor(lengths))
    missing = count.max() - count
    missing[count == 0] = 0
    return missing


def _group_rows(layer: list[Tensor], rows: list[int], side: Side) -> list[Tensor]:
    """One group a row, filled up to one length with zeros."""
    groups = [torch.cat([part for part, r in zip(layer, rows, strict=True) if r == row]) for row in sorted(set(rows))]
    longest = max(map(len, groups))
    fill = [group.new_zeros(longest - len(group), group.shape[1]) for group in groups]
    return [torch.cat(pair if side == "left" else pair[::-1]) for pair in zip(fill, groups, strict=True)]


def move_columns(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    compaction: Compaction,
    positions: Positions,
    generation: bool,
) -> dict[str, Tensor]:
    """The arguments with one value a column, shortened."""
    mask = prompt_mask(inputs)
    new = {
        name: compaction.gather(inputs[name], fill)
        for name, fill in family.columns.items()
        if inputs.get(name) is not None
    }
    new["input_ids"] = compaction.gather(inputs["input_ids"], family.pad_id(model))
    new["input_ids"] = new["input_ids"].masked_fill(compaction.filler, family.placeholder_id(model))
    new["attention_mask"] = compaction.gather(mask, 0)  # never None: without it gaps in the positions look like packing
    if positions == "compact":
        place = family.text_positions(new["attention_mask"], generation)
    else:
        given = inputs.get("position_ids")
        place = family.positions(model, inputs, mask, generation) if given is None else given
        place = compaction.gather(place.expand(*place.shape[:-2], *mask.shape), 0)
    new["position_ids"] = family.finalize_positions(model, place, new["attention_mask"], generation)
    return new
