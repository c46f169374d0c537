"""LoRA in a host: put in, all of it or nothing, and taken out again, bit for bit."""

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
    own: Mapping[str, Tensor] | None = None,
    trainable: bool = False,
    adapter_name: str = "default",
) -> PeftModel:
    """Put LoRA into a host, make sure that its tensors are those that were read, and load them.

    Args:
        own: tensors of the compressor that is attached to the host, if it belongs to the adapter, by their full names.
        trainable: go on training it; otherwise all is frozen and the model is in eval mode.

    Raises:
        AdapterFileError: the tensors are not those of this host; call it inside :func:`restore_on_error`.
    """
    peft = import_peft()
    fields = {name: lora.fields[name] for name in FIELDS if name in lora.fields}
    saved = [*(fields.get("modules_to_save") or ()), *([COMPRESSOR_NAME] if own else [])]
    config = peft.LoraConfig(**{**fields, "modules_to_save": saved or None, "inference_mode": not trainable})
    model = make_peft_model(host, config, adapter_name)
    wanted = peft.get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    given = lora.weights | dict(own or {})
    for key in sorted(wanted.keys() ^ given.keys()):
        raise AdapterFileError(
            f"{lora.file} does not fit: {key} is {'missing' if key in wanted else 'not in the host'}"
        )
    for key, value in wanted.items():
        if value.shape != given[key].shape:
            raise AdapterFileError(
                f"{lora.file} does not fit: {key} is {tuple(given[key].shape)}, the host needs {tuple(value.shape)}"
            )
    peft.set_peft_model_state_dict(model, given, adapter_name=adapter_name)
    return model if trainable else model.eval()


def make_peft_model(host: PreTrainedModel, config: Any, adapter_name: str = "default") -> PeftModel:
    """``get_peft_model`` without the warning that PEFT reads an attribute by a name which transformers has changed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        return import_peft().get_peft_model(host, config, adapter_name=adapter_name)


@contextmanager
def with_lora(host: PreTrainedModel, lora: LoraAdapter) -> Iterator[PeftModel]:
    """Run a bare host with LoRA, frozen and in eval mode; afterwards it is what it was, bit for bit.

    Raises:
        AdapterFileError: the LoRA does not fit the host, which is then as it was before.
        AttachError: the host has adapters already.
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
        AttachError: it has some.
    """
    if ATTACHMENT_NAME in host.__dict__ or getattr(host, "peft_config", None):
        raise AttachError("this host has a compressor or adapters already: framefold.detach it, unload() them first")


def module_outside_language_model(host: PreTrainedModel) -> str | None:
    """Name of a module with LoRA, or of a copied one, that is not in the language model; None if there is none."""
    inside = {id(module) for module in host.get_decoder().modules()}
    adapted = ((name, module) for name, module in host.named_modules() if _is_adapted(module))
    return next((name for name, module in adapted if id(module) not in inside), None)


def _is_adapted(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    return isinstance(module, (AuxiliaryTrainingWrapper, BaseTunerLayer))


@contextmanager
def restore_on_error(host: Any, file: Path) -> Iterator[None]:
    """Leave the host as it was if anything goes wrong inside, and say that as an error of the file."""
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
    """Take LoRA layers out of a host, also those of an injection that broke off, and the compressor."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in reversed(list(host.named_modules())):  # from the inside out
        if _is_adapted(module):
            parent, _, child = name.rpartition(".")
            inner: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            setattr(host.get_submodule(parent), child, inner)
    host.__dict__.pop("peft_config", None)
    if ATTACHMENT_NAME in host.__dict__:
        detach(host)
