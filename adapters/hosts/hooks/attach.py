"""Attaching a compressor to a host: one pre-hook, one hook, and a ``generate`` that compacts once before its loop."""

from __future__ import annotations

from types import TracebackType
from typing import Any, get_args

from transformers import PreTrainedModel

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.base.family import Family, family_of
from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.hosts.prompt.question import Query
from framefold.errors import AttachError, InputError

from .base_model_check import check_base_model
from .forward import compress_inputs, forward_hook, forward_pre_hook
from .generate import CompressedGenerate
from .peft_guard import install_peft_guard, refuse_dropped_compressor
from .state import ATTACHMENT_NAME, COMPRESSOR_NAME, Attachment, Outputs


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
        if ATTACHMENT_NAME in self.model.__dict__:  # the block may have detached already
            self.detach()


def attach(
    model: PreTrainedModel,
    compressor: Compressor,
    *,
    positions: Positions = "preserve",
    outputs: Outputs = "compact",
    query: Query = None,
    tokenizer: Any = None,
    allow_other_host: bool = False,
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
        query: the question, as text or (Q, D) embeddings, or a list with one a video; None: query-aware compressors
            get the text of the user's turn that holds the video. ``model(..., query=...)`` overrides it, and
            ``model(..., times=...)`` gives the (T,) seconds of the frames of each video.
        tokenizer: the host's tokenizer or processor, which tells the question from the chat template; None: the one
            beside the weights that the host was loaded from. Only query-aware compressors need it.
        allow_other_host: take an adapter that was trained in another host.

    Raises:
        UnsupportedHostError: not a host of a supported family; the message lists them.
        AttachError: there is a compressor already.
        WrongHostError: the compressor comes from an adapter folder, which says that it was trained in another host.
        InputError: not a Compressor, or an unknown option.
    """
    family = family_of(model)
    if ATTACHMENT_NAME in model.__dict__:
        raise AttachError("a compressor is attached already: framefold.detach(model) first")
    if hasattr(model, COMPRESSOR_NAME):
        raise AttachError(f"{type(model).__name__} has an attribute {COMPRESSOR_NAME!r} of its own")
    if not isinstance(compressor, Compressor):
        raise InputError(f"attach takes a Compressor (framefold.build(name)), got {type(compressor).__name__}")
    for name, value, known in (("positions", positions, Positions), ("outputs", outputs, Outputs)):
        if value not in get_args(known):
            raise InputError(f"{name} must be one of {get_args(known)}, got {value!r}")

    if not allow_other_host:
        check_base_model(model, compressor.base_model, compressor.name)
    refuse_dropped_compressor(model, COMPRESSOR_NAME)
    _register(model, compressor, family)
    state = Attachment(
        family.pixels,
        family.modality,
        positions,
        outputs,
        query,
        tokenizer,
        model._keys_to_ignore_on_save,
        model.__dict__.get("generate"),
        {name: getattr(model.base_model, name, None) for name in family.remembers},
    )
    own = {f"{COMPRESSOR_NAME}.{key}" for key in compressor.state_dict()}
    model._keys_to_ignore_on_save = own.union(model._keys_to_ignore_on_save or ())
    state.hooks.append(model.register_forward_pre_hook(forward_pre_hook, with_kwargs=True))
    state.hooks.append(model.register_forward_hook(forward_hook, with_kwargs=True))
    state.hooks += install_peft_guard(model, COMPRESSOR_NAME, positions, outputs)
    setattr(model, ATTACHMENT_NAME, state)
    host: Any = model  # an instance attribute in front of the method
    host.generate = CompressedGenerate(model, family.pixels, compress_inputs, state.had_generate)
    return Handle(model)


def detach(model: PreTrainedModel) -> None:
    """Take the compressor off again; the host is what it was before.

    Raises:
        AttachError: nothing is attached.
    """
    state: Attachment | None = getattr(model, "__dict__", {}).get(ATTACHMENT_NAME)
    if state is None:
        raise AttachError(f"no compressor is attached to this {type(model).__name__}")
    for hook in state.hooks:
        hook.remove()
    host: Any = model
    del host.generate
    if state.had_generate is not None:
        host.generate = state.had_generate
    host._keys_to_ignore_on_save = state.ignored_on_save
    for name, value in state.remembered.items():
        setattr(model.base_model, name, value)
    delattr(model, COMPRESSOR_NAME)
    delattr(model, ATTACHMENT_NAME)


def _register(model: PreTrainedModel, compressor: Compressor, family: Family) -> None:
    device: Any = model.get_input_embeddings().weight.device
    compressor.materialize(model.config.get_text_config().hidden_size, family.grid(model), device)
    if device.type != "meta":
        compressor.to(device)
    compressor.train(model.training)
    model.add_module(COMPRESSOR_NAME, compressor)
