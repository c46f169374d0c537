"""Inject LoRA into a host and remove it again, restoring the host bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.hooks.attach import detach
from framefold.adapters.hosts.hooks.state import ATTACHMENT_NAME, COMPRESSOR_NAME
from framefold.errors import AdapterFileError, AttachError
from framefold.messages import one_line

from .config import FIELDS, LoraAdapter, import_peft

if TYPE_CHECKING:
    from peft import PeftModel


def inject_lora(
    host: PreTrainedModel,
    lora: LoraAdapter,
    *,
    compressor_weights: Mapping[str, Tensor] | None = None,
    trainable: bool = False,
    adapter_name: str = "default",
) -> PeftModel:
    """Inject LoRA into a host, check that its tensors match those that were read, and load them.

    Call this inside :func:`restore_on_error`, since a failure leaves the host with part of the layers.

    Args:
        host: the host, with or without a compressor.
        lora: the LoRA to inject.
        compressor_weights: tensors of the attached compressor by their full names, if it belongs to the adapter.
        trainable: keep LoRA trainable; otherwise everything is frozen and the model is in eval mode.
        adapter_name: name of the adapter in PEFT.

    Raises:
        AdapterFileError: the tensors do not match this host.
    """
    peft = import_peft()
    fields = {name: lora.fields[name] for name in FIELDS if name in lora.fields}
    saved = [*(fields.get("modules_to_save") or ()), *([COMPRESSOR_NAME] if compressor_weights else [])]
    config = peft.LoraConfig(**{**fields, "modules_to_save": saved or None, "inference_mode": not trainable})
    model = make_peft_model(host, config, adapter_name)
    expected = peft.get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    weights = lora.weights | dict(compressor_weights or {})
    for key in sorted(expected.keys() ^ weights.keys()):
        raise AdapterFileError(
            f"{lora.file} does not fit: {key} is {'missing' if key in expected else 'not in the host'}"
        )
    for key, value in expected.items():
        if value.shape != weights[key].shape:
            raise AdapterFileError(
                f"{lora.file} does not fit: {key} is {tuple(weights[key].shape)}, the host needs {tuple(value.shape)}"
            )
    peft.set_peft_model_state_dict(model, weights, adapter_name=adapter_name)
    return model if trainable else model.eval()


def make_peft_model(host: PreTrainedModel, config: Any, adapter_name: str = "default") -> PeftModel:
    """Call ``get_peft_model``, hiding PEFT's warning about an attribute that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        return import_peft().get_peft_model(host, config, adapter_name=adapter_name)


@contextmanager
def with_lora(host: PreTrainedModel, lora: LoraAdapter) -> Iterator[PeftModel]:
    """Run a bare host with LoRA, frozen and in eval mode, and restore it bit for bit afterwards.

    Raises:
        AdapterFileError: the LoRA does not fit the host, which is then unchanged.
        AttachError: the host already has adapters or a compressor.
    """
    refuse_occupied(host)
    flags = {parameter: parameter.requires_grad for parameter in host.parameters()}
    modes = {module: module.training for module in host.modules()}
    with restore_on_error(host, lora.file):
        model = inject_lora(host, lora)
    try:
        yield model
    finally:
        remove_adapters(host)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode


def refuse_occupied(host: PreTrainedModel) -> None:
    """Refuse a host with a compressor or adapters.

    Raises:
        AttachError: the host has a compressor or adapters.
    """
    if ATTACHMENT_NAME in host.__dict__ or getattr(host, "peft_config", None):
        raise AttachError(
            "this host already has a compressor or adapters: call framefold.detach(host) or unload() on the PEFT model"
            " first"
        )


def module_outside_language_model(host: PreTrainedModel) -> str | None:
    """Return the name of a module that PEFT adapted or copied outside the language model, or None."""
    inside = {id(module) for module in host.get_decoder().modules()}
    adapted = ((name, module) for name, module in host.named_modules() if _is_adapted(module))
    return next((name for name, module in adapted if id(module) not in inside), None)


def _is_adapted(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    return isinstance(module, (AuxiliaryTrainingWrapper, BaseTunerLayer))


@contextmanager
def restore_on_error(host: Any, file: Path) -> Iterator[None]:
    """Restore the host if anything fails inside, and report the failure as an error of the file.

    Raises:
        AdapterFileError: the file does not fit the host.
        AttachError: raised inside; passed on.
    """
    frozen = {name: parameter.requires_grad for name, parameter in host.named_parameters()}
    try:
        yield
    except Exception as error:
        remove_adapters(host)
        for name, parameter in host.named_parameters():
            parameter.requires_grad_(frozen[name])
        if isinstance(error, (AdapterFileError, AttachError)):
            raise
        raise AdapterFileError(f"{file} does not fit this {type(host).__name__}: {one_line(error)}") from error


def remove_adapters(host: Any) -> None:
    """Remove LoRA layers, including those of an incomplete injection, and the compressor from a host."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in reversed(list(host.named_modules())):  # inner modules first
        if _is_adapted(module):
            parent, _, child = name.rpartition(".")
            inner: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            setattr(host.get_submodule(parent), child, inner)
    host.__dict__.pop("peft_config", None)
    if ATTACHMENT_NAME in host.__dict__:
        detach(host)
