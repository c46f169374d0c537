"""What runs around the forward of an attached host: shorten its inputs before, fit its outputs to the caller after.

Plain functions that read everything from the model they run on, so an attached model can be copied and pickled, and
PEFT may replace ``model.compressor`` by a copy. They act only where raw video pixels arrive; what arrives encoded is
the caller's business, and that is also what keeps a decode step free of work.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.prompt.prepare import COMPACTED_NAME, CompactedPrompt, Prepared, prepare
from framefold.adapters.hosts.prompt.zero3 import keep_gathered
from framefold.errors import InputError

from .generate import FRAMEFOLD_ARGUMENTS, holds_compressed_prompt
from .state import ATTACHMENT_NAME, COMPRESSOR_NAME, Attachment

CALL_NAME = "framefold_call"


@dataclass(frozen=True)
class _Call:
    """What the hook after a forward must do, left on the encoder output by the hook before it."""

    losses: dict[str, Tensor]
    logits_to_keep: Any


def compress_inputs(model: PreTrainedModel, inputs: dict[str, Any], generation: bool) -> Prepared:
    """The one way from inputs to prepared inputs, for forward and generate."""
    state: Attachment = getattr(model, ATTACHMENT_NAME)
    inputs = dict(inputs)
    query, times = inputs.pop("query", None), inputs.pop("times", None)
    query = state.query if query is None else query
    compressor = getattr(model, COMPRESSOR_NAME)  # by name, at call time: PEFT replaces it
    keep_gathered(model, compressor.parameters())
    return prepare(
        model,
        inputs,
        compressor,
        query=query,
        tokenizer=state.tokenizer,
        times=times,
        positions=state.positions,
        generation=generation,
    )


def forward_pre_hook(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Shorten the inputs of a forward that brings raw video; continue a decode loop over a shortened prompt."""
    if args:
        kwargs = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | kwargs
    state: Attachment = getattr(model, ATTACHMENT_NAME)
    if kwargs.get(state.pixels) is not None:
        return (), _shorten(model, state, kwargs)
    given = kwargs
    if not kwargs.keys().isdisjoint(FRAMEFOLD_ARGUMENTS):  # said for a batch that happens to have no video
        kwargs = {name: value for name, value in kwargs.items() if name not in FRAMEFOLD_ARGUMENTS}
    if (cache := kwargs.get("past_key_values")) is not None:
        if getattr(cache, COMPACTED_NAME, None) is not None:
            kwargs = kwargs | _continue(kwargs, cache)
    elif kwargs.get("attention_mask") is None:
        mark = getattr((kwargs.get("mm_encoder_outputs") or {}).get(state.modality), COMPACTED_NAME, None)
        if mark is not None and not mark.compaction.trivial:
            # generate drops masks of ones, and without a cache the host takes gaps in the positions for packing
            kwargs = kwargs | {"attention_mask": torch.ones_like(kwargs["input_ids"])}
    return None if kwargs is given else ((), kwargs)


def _shorten(model: Any, state: Attachment, kwargs: dict[str, Any]) -> dict[str, Any]:
    wanted = kwargs.get("logits_to_keep")
    if state.outputs == "full":
        kwargs = {name: value for name, value in kwargs.items() if name != "logits_to_keep"}
    prepared = compress_inputs(model, kwargs, False)
    if state.outputs == "compact" and isinstance(wanted, Tensor) and not prepared.compaction.trivial:
        raise InputError(
            "logits_to_keep as a tensor names columns that move: attach with outputs='full', or pass a number"
        )
    setattr(prepared.kwargs["mm_encoder_outputs"][state.modality], CALL_NAME, _Call(prepared.losses, wanted))
    return prepared.kwargs


def _continue(kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
    """Mask and positions of a decode step whose caller counts the columns of the original prompt."""
    mark: CompactedPrompt = getattr(cache, COMPACTED_NAME)
    if not holds_compressed_prompt(cache):  # it was reset
        delattr(cache, COMPACTED_NAME)
        return {}
    ids = kwargs.get("input_ids")
    rows, new = (ids if ids is not None else kwargs["inputs_embeds"]).shape[:2]
    before, after = mark.compaction.n_before, mark.compaction.n_after
    since = int(cache.get_seq_length()) - after  # columns between the prompt and this step
    if since < 0:
        raise InputError("this cache was cropped inside its compressed prompt: start again from the whole conversation")
    mask, changes = kwargs.get("attention_mask"), {}
    if mask is None:
        changes["attention_mask"] = torch.cat([mark.mask, mark.mask.new_ones(rows, since + new)], dim=1)
    elif mask.ndim == 2 and mask.shape[1] == before + since + new:
        changes["attention_mask"] = torch.cat([mark.compaction.gather(mask[:, :before], 0), mask[:, before:]], dim=1)
    elif mask.ndim != 2 or mask.shape[1] != after + since + new:
        raise InputError(
            f"attention_mask must be 2-D with {before + since + new} columns here, got {tuple(mask.shape)}"
        )
    if kwargs.get("position_ids") is None:
        place = mark.next_position[:, None] + torch.arange(since, since + new, device=mark.mask.device)
        changes["position_ids"] = place.expand(*mark.axes, rows, new)
    return changes


def forward_hook(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Tag the cache, add the compressor's losses and bring the logits to the length that the caller wants."""
    video = (kwargs.get("mm_encoder_outputs") or {}).get(getattr(model, ATTACHMENT_NAME).modality)
    call: _Call | None = getattr(video, CALL_NAME, None)
    if call is None:
        return None
    mark: CompactedPrompt = getattr(video, COMPACTED_NAME)
    values = list(output.values() if isinstance(output, ModelOutput) else output)
    for cache in (value for value in values if isinstance(value, Cache)):
        setattr(cache, COMPACTED_NAME, None if mark.compaction.trivial else mark)
    at = 0 if kwargs.get("labels") is None else 1  # of the logits
    if at and model.training and call.losses:
        values[0] = values[0] + torch.stack(list(call.losses.values())).sum() * _share(kwargs)
    if getattr(model, ATTACHMENT_NAME).outputs == "full":
        values[at] = _wanted(mark.compaction.expand(values[at]), call.logits_to_keep)
    if not isinstance(output, ModelOutput):
        return tuple(values)
    for name, value in zip(list(output), values, strict=True):
        output[name] = value
    return output


def _share(kwargs: dict[str, Any]) -> Any:
    """What a mean over this batch weighs in a step of several, where the caller divides by the labels of all of them.

    Trainer does, under gradient accumulation and over devices; like its host's loss it does not count the first column.
    """
    items = kwargs.get("num_items_in_batch")
    return 1 if items is None else (kwargs["labels"][..., 1:] != -100).sum() / items


def _wanted(logits: Tensor, keep: Any) -> Tensor:
    if isinstance(keep, Tensor):
        return logits[:, keep]
    return logits[:, -keep:] if keep else logits
