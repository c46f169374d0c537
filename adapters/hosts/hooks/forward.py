"""Hooks around the forward of an attached host: shorten its inputs before, restore what the caller expects after.

The hooks are plain functions that read everything from the model they run on, so an attached model can be copied and
pickled, and PEFT may replace ``model.compressor`` by a copy. They act only on raw video pixels. Features that the
caller has encoded pass untouched, which also keeps decode steps free of work.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from framefold.adapters.hosts.prompt.prepare import COMPACTED_NAME, CompactedPrompt, Prepared, prepare
from framefold.adapters.hosts.prompt.zero3 import keep_gathered
from framefold.errors import InputError

from .generate import FRAMEFOLD_ARGUMENTS, holds_compressed_prompt
from .losses import expose_losses, record_losses
from .outputs import read_outputs, write_outputs
from .peft_guard import by_adapter_names
from .state import ATTACHMENT_NAME, COMPRESSOR_NAME, Attachment

CALL_NAME = "framefold_call"


@dataclass(frozen=True)
class _ForwardCall:
    """Values that the pre-hook passes to the hook after the same forward, as an attribute of the encoder output."""

    losses: dict[str, Tensor]
    logits_to_keep: Any
    as_tuple: bool


def compress_inputs(model: PreTrainedModel, inputs: dict[str, Any], generation: bool) -> Prepared:
    """Prepare the inputs of an attached host with its own options, for ``forward`` or for ``generate``."""
    attachment: Attachment = getattr(model, ATTACHMENT_NAME)
    inputs = dict(inputs)
    query, times = inputs.pop("query", None), inputs.pop("times", None)
    query = attachment.query if query is None else query
    compressor = getattr(model, COMPRESSOR_NAME)  # looked up by name at call time, because PEFT replaces it
    keep_gathered(model, compressor.parameters())
    return prepare(
        model,
        inputs,
        by_adapter_names(compressor),
        query=query,
        tokenizer=attachment.tokenizer,
        times=times,
        positions=attachment.positions,
        generation=generation,
        vision_chunk=attachment.vision_chunk,
    )


def forward_pre_hook(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Shorten the inputs of a forward with raw video, or continue a decode loop over a shortened prompt."""
    if args:
        kwargs = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | kwargs
    attachment: Attachment = getattr(model, ATTACHMENT_NAME)
    if model.training and torch.is_grad_enabled():
        attachment.losses = None  # those of the batch before
    if kwargs.get(attachment.pixels) is not None:
        return (), _shorten(model, attachment, kwargs)
    original = kwargs
    if any(name in kwargs for name in FRAMEFOLD_ARGUMENTS):  # passed with a batch that has no video
        kwargs = {name: value for name, value in kwargs.items() if name not in FRAMEFOLD_ARGUMENTS}
    if (cache := kwargs.get("past_key_values")) is not None:
        if changes := _continue(kwargs, cache):
            kwargs = kwargs | changes
    elif kwargs.get("attention_mask") is None:
        encoded = (kwargs.get("mm_encoder_outputs") or {}).get(attachment.modality)
        prompt = getattr(encoded, COMPACTED_NAME, None)
        if prompt is not None and not prompt.compaction.trivial:
            # generate drops masks of ones, and without a cache the host takes gaps in the positions for packing
            ids = kwargs.get("input_ids")
            columns = ids if ids is not None else kwargs["inputs_embeds"][..., 0]
            kwargs = kwargs | {"attention_mask": torch.ones_like(columns, dtype=torch.long)}
    return None if kwargs is original else ((), kwargs)


# Compression depends on the values of the features, so tracing it would break the graph at nearly every operation.
@torch.compiler.disable
def _shorten(model: Any, attachment: Attachment, kwargs: dict[str, Any]) -> dict[str, Any]:
    logits_to_keep = kwargs.get("logits_to_keep")
    if attachment.outputs == "full":
        kwargs = {name: value for name, value in kwargs.items() if name != "logits_to_keep"}
    prepared = compress_inputs(model, kwargs, False)
    if prepared.prompt is None:  # images only, maybe in a later turn of a conversation about a video
        kwargs = prepared.kwargs if logits_to_keep is None else prepared.kwargs | {"logits_to_keep": logits_to_keep}
        return kwargs | _continue(kwargs, kwargs.get("past_key_values"))
    if attachment.outputs == "compact" and isinstance(logits_to_keep, Tensor) and not prepared.compaction.trivial:
        raise InputError(
            "logits_to_keep as a tensor names columns that compression moves: attach with outputs='full', or pass a"
            " number"
        )
    encoded = prepared.kwargs["mm_encoder_outputs"][attachment.modality]
    as_tuple = kwargs.get("return_dict") is False  # a tuple would not name its values, so it is made afterwards
    setattr(encoded, CALL_NAME, _ForwardCall(prepared.losses, logits_to_keep, as_tuple))
    return prepared.kwargs | {"return_dict": True} if as_tuple else prepared.kwargs


def _continue(kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
    """Return mask and positions of a decode step whose caller counts the columns of the original prompt.

    Nothing is returned if the cache contains no compressed prompt.
    """
    prompt: CompactedPrompt | None = getattr(cache, COMPACTED_NAME, None)
    if prompt is None:
        return {}
    if not holds_compressed_prompt(cache):  # the cache was reset
        delattr(cache, COMPACTED_NAME)
        return {}
    ids = kwargs.get("input_ids")
    rows, new = (ids if ids is not None else kwargs["inputs_embeds"]).shape[:2]
    before, after = prompt.compaction.n_before, prompt.compaction.n_after
    since = int(cache.get_seq_length()) - after  # columns between the prompt and this step
    if since < 0:
        raise InputError("this cache was cropped inside its compressed prompt: start again from the full conversation")
    mask, changes = kwargs.get("attention_mask"), {}
    if mask is None:
        changes["attention_mask"] = torch.cat([prompt.mask, prompt.mask.new_ones(rows, since + new)], dim=1)
    elif mask.ndim == 2 and mask.shape[1] == before + since + new:
        changes["attention_mask"] = torch.cat([prompt.compaction.gather(mask[:, :before], 0), mask[:, before:]], dim=1)
    elif mask.ndim != 2 or mask.shape[1] != after + since + new:
        raise InputError(
            f"attention_mask must be 2-D with {before + since + new} columns here, got {tuple(mask.shape)}"
        )
    if kwargs.get("position_ids") is None:
        steps = prompt.next_position[:, None] + torch.arange(since, since + new, device=prompt.mask.device)
        changes["position_ids"] = steps.expand(*prompt.axes, rows, new)
    return changes


def forward_hook(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Record the prompt on the cache, add the compressor's losses, and give the logits the requested length."""
    attachment: Attachment = getattr(model, ATTACHMENT_NAME)
    encoded = (kwargs.get("mm_encoder_outputs") or {}).get(attachment.modality)
    call: _ForwardCall | None = getattr(encoded, CALL_NAME, None)
    if call is None:
        return None
    prompt: CompactedPrompt = getattr(encoded, COMPACTED_NAME)
    columns = prompt.compaction.n_after
    values, changes = read_outputs(output, columns), {}
    for cache in (*values.values(), kwargs.get("past_key_values")):
        if isinstance(cache, Cache):
            setattr(cache, COMPACTED_NAME, None if prompt.compaction.trivial else prompt.without_places())
    loss, logits = values.get("loss"), values.get("logits")
    if isinstance(loss, Tensor) and model.training and call.losses:
        own = torch.stack(list(call.losses.values())).sum() * _batch_weight(kwargs)
        loss = changes["loss"] = loss + own.to(loss.device)  # device maps may place them on different devices
    if attachment.outputs == "full" and isinstance(logits, Tensor) and logits.shape[1] == columns:
        changes["logits"] = _select_logits(prompt.compaction.expand(logits), call.logits_to_keep)
    output = write_outputs(output, columns, changes)
    if model.training and torch.is_grad_enabled():
        record_losses(attachment, call.losses, (values | changes).values(), loss)
    if call.as_tuple and hasattr(output, "to_tuple"):
        return output.to_tuple()
    expose_losses(output, call.losses)
    return output


def _batch_weight(kwargs: dict[str, Any]) -> Any:
    """Return the weight of this batch's mean in an optimizer step over several batches.

    Under gradient accumulation and over several devices, Trainer divides by the labels of all batches. As in the loss
    of its hosts, the first column does not count.
    """
    items, counted = kwargs.get("num_items_in_batch"), kwargs.get("shift_labels")
    if counted is None and (labels := kwargs.get("labels")) is not None:
        counted = labels[..., 1:]
    if items is None or counted is None:
        return 1
    return (counted != -100).sum() / items


def _select_logits(logits: Tensor, keep: Any) -> Tensor:
    if isinstance(keep, Tensor):
        return logits[:, keep]
    return logits[:, -keep:] if keep else logits
