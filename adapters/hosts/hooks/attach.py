"""Attach a compressor to a host: a forward pre-hook, a forward hook, and a ``generate`` that compresses the prompt."""

from __future__ import annotations

from types import TracebackType
from typing import Any, get_args

from transformers import PreTrainedModel

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import warn_untrained
from framefold.adapters.hosts.base.family import Family, family_of
from framefold.adapters.hosts.base.offload import execution_device
from framefold.adapters.hosts.prompt.columns import Positions, check_positions
from framefold.adapters.hosts.prompt.question import Query
from framefold.adapters.hosts.prompt.vision import check_vision_chunk
from framefold.errors import AttachError, InputError

from .base_model_check import check_base_model
from .forward import compress_inputs, forward_hook, forward_pre_hook
from .generate import CompressedGenerate
from .key_bias import check_takes_bias, install_key_bias, remove_key_bias
from .layer_hooks import check_layers, install_layer_hooks, remove_layer_hooks
from .peft_guard import install_peft_guard, refuse_dropped_compressor
from .state import ATTACHMENT_NAME, COMPRESSOR_NAME, Attachment, Outputs


class Handle:
    """Return value of :func:`attach`. As a context manager it detaches on exit."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def detach(self) -> None:
        """Call ``framefold.detach(model)``."""
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
    vision_chunk: int | None = None,
) -> Handle:
    """Make a host compress the video of its inputs, in ``forward`` and ``generate``, until :func:`detach`.

    The compressor becomes the submodule ``model.compressor``, in the host's mode and on the device where the host
    embeds its prompt, also if the host is dispatched over devices or offloaded (``device_map``); with PEFT, attach
    first and name it in ``modules_to_save``. ``model.save_pretrained`` leaves it out. In training mode its losses are
    added to the loss that the host returns; a trainer that computes its own gets them from
    :func:`~framefold.adapters.hosts.hooks.losses.compressor_losses`. ``generate`` returns the caller's prompt and the
    new tokens.

    Args:
        model: the host.
        compressor: the compressor; it is not copied.
        positions: "preserve" gives a token the position of its anchor; "compact" renumbers the shorter prompt.
            "all_axes" does as "preserve", with text behind a video after the video's largest position on any axis, time
            included. It is for Qwen2-VL and Qwen2.5-VL, which were published with this rule; transformers has used the
            larger side of the frame instead since 5.3.
        outputs: "compact" returns logits of the shorter prompt; "full" returns logits of the caller's length, where a
            dropped column takes the logits of its last kept predecessor. Hidden states and attentions always have the
            length of the shorter prompt, and so has an output without logits.
        query: the question, as text or (Q, D) embeddings, or a list with one entry per video. If None, query-aware
            compressors get the text of the user's turn that contains the video. ``model(..., query=...)`` overrides
            it, and ``model(..., times=...)`` passes the (T,) seconds of the frames of each video.
        tokenizer: the host's tokenizer or processor. Query-aware compressors need it to separate the question from the
            chat template, and hosts that take frames as images to tell videos from pictures, unless
            ``model(..., clips=...)`` names them. If None, the tokenizer next to the weights that the host was loaded
            from.
        allow_other_host: accept an adapter that was trained in another host.
        vision_chunk: number of frames that the vision encoder takes at once, so that its memory does not grow with the
            length of a video; None for all.

    Raises:
        UnsupportedHostError: the host is of no supported family; the message lists the supported ones.
        AttachError: a compressor is attached already, or the compressor cannot act inside this language model.
        WrongHostError: the compressor was loaded from an adapter folder that names another host.
        InputError: ``compressor`` is no Compressor, or an option is unknown.

    Warns:
        UntrainedCompressorWarning: the compressor has parameters to learn, and they have their initial values.
    """
    family = family_of(model)
    if ATTACHMENT_NAME in model.__dict__:
        raise AttachError("a compressor is already attached: call framefold.detach(model) first")
    if hasattr(model, COMPRESSOR_NAME):
        raise AttachError(f"{type(model).__name__} already has an attribute {COMPRESSOR_NAME!r}")
    if not isinstance(compressor, Compressor):
        raise InputError(f"attach needs a Compressor (framefold.build(name)), got {type(compressor).__name__}")
    check_positions(positions, family)
    check_vision_chunk(vision_chunk)
    if outputs not in get_args(Outputs):
        raise InputError(f"outputs must be one of {get_args(Outputs)}, got {outputs!r}")

    if compressor.in_llm is not None:
        check_layers(model, compressor.in_llm)
    if compressor.biases_keys and model.training:
        check_takes_bias(family.language_model(model).config)
    if not allow_other_host:
        check_base_model(model, compressor.base_model, compressor.name)
    refuse_dropped_compressor(model, COMPRESSOR_NAME)
    _add_compressor(model, compressor, family)
    attachment = Attachment(
        family.pixels,
        family.modality,
        positions,
        outputs,
        query,
        tokenizer,
        model._keys_to_ignore_on_save,
        model.__dict__.get("generate"),
        {name: getattr(model.base_model, name, None) for name in family.remembers},
        vision_chunk,
    )
    compressor_keys = {f"{COMPRESSOR_NAME}.{key}" for key in compressor.state_dict()}
    model._keys_to_ignore_on_save = compressor_keys.union(model._keys_to_ignore_on_save or ())
    attachment.hooks.append(model.register_forward_pre_hook(forward_pre_hook, with_kwargs=True))
    attachment.hooks.append(model.register_forward_hook(forward_hook, with_kwargs=True))
    install_layer_hooks(model, compressor.in_llm)
    install_key_bias(model, compressor)
    attachment.hooks += install_peft_guard(model, COMPRESSOR_NAME, positions, outputs)
    setattr(model, ATTACHMENT_NAME, attachment)
    warn_untrained(compressor)
    host: Any = model  # the instance attribute shadows the method
    host.generate = CompressedGenerate(model, family.pixels, compress_inputs, attachment.instance_generate)
    return Handle(model)


def detach(model: PreTrainedModel) -> None:
    """Remove the compressor and restore the host to its state before :func:`attach`.

    Raises:
        AttachError: no compressor is attached.
    """
    attachment: Attachment | None = getattr(model, "__dict__", {}).get(ATTACHMENT_NAME)
    if attachment is None:
        raise AttachError(f"no compressor is attached to this {type(model).__name__}")
    for hook in attachment.hooks:
        hook.remove()
    remove_layer_hooks(model)
    remove_key_bias(model)
    host: Any = model
    del host.generate
    if attachment.instance_generate is not None:
        host.generate = attachment.instance_generate
    host._keys_to_ignore_on_save = attachment.keys_to_ignore_on_save
    for name, value in attachment.base_attributes.items():
        setattr(model.base_model, name, value)
    delattr(model, COMPRESSOR_NAME)
    delattr(model, ATTACHMENT_NAME)


def _add_compressor(model: PreTrainedModel, compressor: Compressor, family: Family) -> None:
    device = execution_device(model)
    family.create_parameters(compressor, model, device)
    if device.type != "meta":
        compressor.to(device)
    compressor.train(model.training)
    model.add_module(COMPRESSOR_NAME, compressor)
