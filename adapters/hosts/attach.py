"""Attaching a compressor to a host: one pre-hook, one hook, and a ``generate`` that compacts once before its loop.

The hooks are plain functions that read everything from the model they run on, so an attached model can be copied and
pickled, and PEFT may replace ``model.compressor`` by a copy. They act only where raw video pixels arrive; what arrives
encoded is the caller's business, and that is also what keeps a decode step free of work.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from ..base import Compressor
from ..errors import AttachError, InputError
from .family import Family, family_of
from .generate import Generate, holds_compressed
from .prepare import MARK, Mark, Positions, Prepared, Query, prepare

Outputs = Literal["compact", "full"]
NAME = "compressor"  # PEFT: modules_to_save=["compressor"]
STATE = "_framefold"
CALL = "framefold_call"


@dataclass
class _State:
    """What an attached model remembers; no reference to the model or the compressor, or copies would share them."""

    pixels: str
    modality: str
    positions: Positions
    outputs: Outputs
    query: Query
    ignored_on_save: Any
    had_generate: Any
    hooks: list[RemovableHandle] = field(default_factory=list)


@dataclass(frozen=True)
class _Call:
    """What the hook after a forward must do, left on the encoder output by the hook before it."""

    losses: dict[str, Tensor]
    logits_to_keep: Any


class Handle:
    """What :func:`attach` returns. As a context manager it detaches at the end."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def detach(self) -> None:
        """Same as ``framefold.detach(model)``."""
        detach(self.model)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if STATE in self.model.__dict__:  # the block may have detached already
            self.detach()


def attach(
    model: PreTrainedModel,
    compressor: Compressor,
    *,
    positions: Positions = "preserve",
    outputs: Outputs = "compact",
    query: Query = None,
) -> Handle:
    """Make a host compress the video of its inputs, in ``forward`` and ``generate``, until :func:`detach`.

    The compressor becomes the submodule ``model.compressor``, in the host's mode and on its device; with PEFT, attach
    first and name it in ``modules_to_save``. ``model.save_pretrained`` leaves it out. In training mode its losses are
    added to the host's loss. ``generate`` returns the caller's prompt and the new tokens.

    Args:
        positions: "preserve" gives a token the position of its anchor, "compact" numbers the shorter prompt anew.
        outputs: "compact" returns logits of the shorter prompt; "full" those of the caller's length, where a dropped
            column takes the logits of its last kept predecessor. Hidden states and attentions stay those of the shorter
            prompt.
        query: (L, D) embeddings of the question, or one such tensor a video. ``model(..., query=...)`` overrides it;
            ``model(..., times=...)`` gives the (T,) seconds of the frames of each video.

    Raises:
        UnsupportedHostError: not a host of a supported family; the message lists them.
        AttachError: there is a compressor already.
        InputError: not a Compressor, or an unknown option.
    """
    family = family_of(model)
    if STATE in model.__dict__:
        raise AttachError("a compressor is attached already: framefold.detach(model) first")
    if hasattr(model, NAME):
        raise AttachError(f"{type(model).__name__} has an attribute {NAME!r} of its own")
    if not isinstance(compressor, Compressor):
        raise InputError(f"attach takes a Compressor (framefold.build(name)), got {type(compressor).__name__}")
    for name, value, known in (("positions", positions, Positions), ("outputs", outputs, Outputs)):
        if value not in get_args(known):
            raise InputError(f"{name} must be one of {get_args(known)}, got {value!r}")

    _register(model, compressor, family)
    state = _State(
        family.pixels,
        family.modality,
        positions,
        outputs,
        query,
        model._keys_to_ignore_on_save,
        model.__dict__.get("generate"),
    )
    own = {f"{NAME}.{key}" for key in compressor.state_dict()}
    model._keys_to_ignore_on_save = own.union(model._keys_to_ignore_on_save or ())
    state.hooks.append(model.register_forward_pre_hook(_before, with_kwargs=True))
    state.hooks.append(model.register_forward_hook(_after, with_kwargs=True))
    setattr(model, STATE, state)
    host: Any = model  # an instance attribute in front of the method
    host.generate = Generate(model, family.pixels, _compress, state.had_generate)
    return Handle(model)


def detach(model: PreTrainedModel) -> None:
    """Take the compressor off again; the host is what it was before.

    Raises:
        AttachError: nothing is attached.
    """
    state: _State | None = getattr(model, "__dict__", {}).get(STATE)
    if state is None:
        raise AttachError(f"no compressor is attached to this {type(model).__name__}")
    for hook in state.hooks:
        hook.remove()
    host: Any = model
    del host.generate
    if state.had_generate is not None:
        host.generate = state.had_generate
    host._keys_to_ignore_on_save = state.ignored_on_save
    delattr(model, NAME)
    delattr(model, STATE)


def _register(model: PreTrainedModel, compressor: Compressor, family: Family) -> None:
    device: Any = model.get_input_embeddings().weight.device
    compressor.materialize(model.config.get_text_config().hidden_size, family.grid(model), device)
    if device.type != "meta":
        compressor.to(device)
    compressor.train(model.training)
    model.add_module(NAME, compressor)


def _compress(model: PreTrainedModel, inputs: dict[str, Any], generation: bool) -> Prepared:
    """The one way from inputs to prepared inputs, for forward and generate."""
    state: _State = getattr(model, STATE)
    inputs = dict(inputs)
    query, times = inputs.pop("query", None), inputs.pop("times", None)
    query = state.query if query is None else query
    compressor = getattr(model, NAME)  # by name, at call time: PEFT replaces it
    return prepare(
        model, inputs, compressor, query=query, times=times, positions=state.positions, generation=generation
    )


def _before(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Shorten the inputs of a forward that brings raw video; continue a decode loop over a shortened prompt."""
    if args:
        kwargs = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | kwargs
    state: _State = getattr(model, STATE)
    if kwargs.get(state.pixels) is not None:
        return (), _shorten(model, state, kwargs)
    changes: dict[str, Any] = {}
    if (cache := kwargs.get("past_key_values")) is not None:
        if getattr(cache, MARK, None) is not None:
            changes = _continue(kwargs, cache)
    elif kwargs.get("attention_mask") is None:
        mark = getattr((kwargs.get("mm_encoder_outputs") or {}).get(state.modality), MARK, None)
        if mark is not None and not mark.compaction.trivial:
            # generate drops masks of ones, and without a cache the host takes gaps in the positions for packing
            changes = {"attention_mask": torch.ones_like(kwargs["input_ids"])}
    return ((), kwargs | changes) if changes else None


def _shorten(model: Any, state: _State, kwargs: dict[str, Any]) -> dict[str, Any]:
    wanted = kwargs.get("logits_to_keep")
    if state.outputs == "full":
        kwargs = {name: value for name, value in kwargs.items() if name != "logits_to_keep"}
    prepared = _compress(model, kwargs, False)
    if state.outputs == "compact" and isinstance(wanted, Tensor) and not prepared.compaction.trivial:
        raise InputError(
            "logits_to_keep as a tensor names columns that move: attach with outputs='full', or pass a number"
        )
    setattr(prepared.kwargs["mm_encoder_outputs"][state.modality], CALL, _Call(prepared.losses, wanted))
    return prepared.kwargs


def _continue(kwargs: dict[str, Any], cache: Any) -> dict[str, Any]:
    """Mask and positions of a decode step whose caller counts the columns of the original prompt."""
    mark: Mark = getattr(cache, MARK)
    if not holds_compressed(cache):  # it was reset
        delattr(cache, MARK)
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


def _after(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Tag the cache, add the compressor's losses and bring the logits to the length that the caller wants."""
    video = (kwargs.get("mm_encoder_outputs") or {}).get(getattr(model, STATE).modality)
    call: _Call | None = getattr(video, CALL, None)
    if call is None:
        return None
    mark: Mark = getattr(video, MARK)
    values = list(output.values() if isinstance(output, ModelOutput) else output)
    for cache in (value for value in values if isinstance(value, Cache)):
        setattr(cache, MARK, None if mark.compaction.trivial else mark)
    at = 0 if kwargs.get("labels") is None else 1  # of the logits
    if at and model.training and call.losses:
        values[0] = values[0] + torch.stack(list(call.losses.values())).sum()
    if getattr(model, STATE).outputs == "full":
        values[at] = _wanted(mark.compaction.expand(values[at]), call.logits_to_keep)
    if not isinstance(output, ModelOutput):
        return tuple(values)
    for name, value in zip(list(output), values, strict=True):
        output[name] = value
    return output


def _wanted(logits: Tensor, keep: Any) -> Tensor:
    if isinstance(keep, Tensor):
        return logits[:, keep]
    return logits[:, -keep:] if keep else logits
