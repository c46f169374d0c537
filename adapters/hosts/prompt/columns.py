"""Shorten a prompt: select its columns, pad the batch again, and move all arguments with one value per column.

Dimensions: B rows, L columns before, L' columns after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family
from framefold.errors import InputError

from .compaction import Compaction, Side, compact
from .embeddings import embed_id

Positions = Literal["preserve", "compact", "all_axes"]


def check_positions(positions: str, family: Family) -> None:
    """Check an option ``positions``.

    Raises:
        InputError: it is unknown, or the family has no such positions.
    """
    if positions not in get_args(Positions):
        raise InputError(f"positions must be one of {get_args(Positions)}, got {positions!r}")
    if positions == "all_axes" and not family.videos_span_time:
        raise InputError(
            f"positions='all_axes' is for hosts whose videos span time in one run, as qwen2_vl and qwen2_5_vl:"
            f" {family.model_type} numbers the text behind a video in one way, use 'preserve'"
        )


def prompt_mask(inputs: Mapping[str, Any]) -> Tensor:
    """Return the (B, L) attention mask of the inputs, or ones if they have none."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def choose_columns(
    ids: Tensor, where: Tensor, clips: list[Encoded], tokens: list[VideoTokens | None]
) -> tuple[Tensor, list[list[Tensor]]]:
    """Select the columns to keep and the features that fill the kept placeholders.

    Args:
        ids: (B, L) prompts.
        where: (P, 2) row and column of every placeholder, in order.
        clips: the encoded videos and stills.
        tokens: compressed tokens of each video; None for stills.

    Returns:
        (B, L) bool, the columns to keep; and per video, features and deepstack layers of its kept placeholders.
    """
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[where[:, 0], where[:, 1]] = False
    start, kept = 0, []
    for clip, out in zip(clips, tokens, strict=True):
        kept.append(clip.kept_placeholders(out).to(ids.device) + start)
        start += len(clip)
    kept_columns = where[torch.cat(kept)]
    keep[kept_columns[:, 0], kept_columns[:, 1]] = True
    return keep, [clip.streams(out) for clip, out in zip(clips, tokens, strict=True)]


def shorten(
    inputs: Mapping[str, Any],
    keep: Tensor,
    where: Tensor,
    streams: list[list[Tensor]],
    rows: list[int],
    left: bool,
    images: Tensor | None = None,
    padded: bool = False,
    pads_left: bool = False,
) -> tuple[Compaction, list[list[Tensor]]]:
    """Compute the map to the shorter batch, and group the features of each layer as the host expects them.

    Args:
        inputs: the host's inputs.
        keep: (B, L) bool, columns to keep.
        where: (P, 2) row and column of every placeholder.
        streams: per video, features and deepstack layers.
        rows: row of each video.
        left: prepare for ``generate``: pad on the left unless the caller pads on the right, and give all groups the
            same length, because beam search separates repeated groups by their length.
        images: (B, L) bool, placeholders of images. They are no padding even where they are masked, since the host
            fills them.
        padded: whether the mask must not be all ones; see ``Family.builds_mask_twice``.
        pads_left: whether padding on the right would change what follows; see ``Family.pads_left``.

    Returns:
        The map; and for features and each deepstack layer a list of groups.
    """
    mask = prompt_mask(inputs)
    real = mask != 0 if images is None else (mask != 0) | images
    real[where[:, 0], where[:, 1]] = True
    for labelled in _labelled_columns(inputs):
        real = real | labelled
    side: Side = "left" if left or padded or pads_left else "right"  # so that the last column stays the last token
    if bool((mask[:, 0] == 0).any()):  # padding stays on the caller's side
        side = "left"
    elif bool((mask[:, -1] == 0).any()):
        side = "right"
    layers = [list(layer) for layer in zip(*streams, strict=True)]
    lengths = [len(features) for features in layers[0]]
    if not left or len(set(lengths)) == 1:
        return compact(keep, real, side, padded=padded), layers
    filler = _missing_placeholders(lengths, rows, len(keep))
    compaction = compact(keep, real, side, filler.to(keep.device), padded)
    return compaction, [_group_rows(layer, rows, side) for layer in layers]


def _labelled_columns(inputs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield (B, L) bool masks of the columns that have a label and of those that predict one.

    The host also counts the label of the first column after padding, which the padding predicts.
    """
    labels, shifted = inputs.get("labels"), inputs.get("shift_labels")
    if labels is not None:
        yield labels != -100
        if shifted is None:
            yield torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:] != -100
    if shifted is not None:
        yield shifted != -100


def _missing_placeholders(lengths: list[int], rows: list[int], batch: int) -> Tensor:
    """Return the (B,) numbers of placeholders that each row with a video lacks compared with the largest row."""
    count = torch.zeros(batch, dtype=torch.long)
    count.index_add_(0, torch.tensor(rows), torch.tensor(lengths))
    missing = count.max() - count
    missing[count == 0] = 0
    return missing


def _group_rows(layer: list[Tensor], rows: list[int], side: Side) -> list[Tensor]:
    """Join the features of each row to one group, and pad all groups with zeros to the same length."""
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
    embedded: bool = False,
) -> dict[str, Tensor]:
    """Return the arguments with one value per column, shortened.

    Args:
        model: the host.
        family: family of the host.
        inputs: the host's inputs, and ``input_ids`` if it gets embeddings.
        compaction: map between the columns.
        positions: as in :func:`~framefold.adapters.hosts.prompt.prepare.prepare`.
        generation: as there.
        embedded: whether the host gets embeddings instead of ids.

    Raises:
        InputError: a shifted label is lost, as every column before it is dropped.
    """
    mask = prompt_mask(inputs)
    host_inputs = {**inputs, "input_ids": None} if embedded else inputs
    new = {
        name: compaction.gather(inputs[name], fill)
        for name, fill in family.columns.items()
        if inputs.get(name) is not None
    }
    new["input_ids"] = compaction.gather(inputs["input_ids"], family.pad_id(model))
    new["input_ids"] = new["input_ids"].masked_fill(compaction.filler, family.placeholder_id(model))
    new["attention_mask"] = compaction.gather(mask, 0)  # never None: without it, gaps in positions look like packing
    if positions == "compact":
        position_ids = family.text_positions(new["attention_mask"], generation)
    else:
        given = inputs.get("position_ids")
        position_ids = family.positions(model, host_inputs, mask, generation) if given is None else given
        if positions == "all_axes" and given is None:
            position_ids = family.move_text_behind_videos(position_ids, host_inputs, mask)
        position_ids = compaction.gather(position_ids.expand(*position_ids.shape[:-2], *mask.shape), 0)
    remembered = {name: getattr(model.base_model, name, None) for name in family.remembers if embedded}
    new["position_ids"] = family.finalize_positions(model, position_ids, new["attention_mask"], generation)
    for name, value in remembered.items():  # without ids, the host remembers nothing about this prompt
        setattr(model.base_model, name, value)
    if inputs.get("shift_labels") is not None:
        new["shift_labels"] = _move_shifted_labels(inputs["shift_labels"], compaction)
    if inputs.get("inputs_embeds") is not None:
        vectors = compaction.gather_vectors(inputs["inputs_embeds"])
        if not compaction.trivial:  # some hosts look up the ids of all columns, padding included
            padding = embed_id(model, family.pad_id(model), vectors.device).to(vectors)
            vectors = torch.where(compaction.pad[..., None], padding, vectors)
        placeholder = embed_id(model, family.placeholder_id(model), vectors.device).to(vectors)
        filled = (new["input_ids"] == family.placeholder_id(model))[..., None]
        new["inputs_embeds"] = torch.where(filled, placeholder, vectors)
    if embedded:
        del new["input_ids"]
    return new


def _move_shifted_labels(labels: Tensor, compaction: Compaction) -> Tensor:
    """Return the labels of each next column, where a next column may now be further away in the original prompt."""
    moved, lost = compaction.gather_shifted(labels, -100)
    if lost:
        raise InputError(f"{lost} shifted labels have no column left that predicts them: set them to -100")
    return moved
