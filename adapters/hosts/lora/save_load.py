"""Compressor and LoRA as one folder: the adapter folder of the compressor with ``lora/``, a stock PEFT folder, in it.

Read with safetensors and JSON only. Of a LoRA config the fields that say where the matrices go and how they are scaled
are taken; one that asks for more (an initialisation that changes the host, a module to import) is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from transformers import PreTrainedModel

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.hooks.attach import attach
from framefold.adapters.hosts.hooks.base_model_check import base_model_of
from framefold.adapters.hosts.hooks.peft_guard import ADAPTER_CONFIG, compressor_with_adapter, stock_fields
from framefold.adapters.hosts.hooks.state import ATTACHMENT_NAME, COMPRESSOR_NAME, Outputs
from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.pretrained.config import check_config, read_adapter_json, read_config
from framefold.adapters.pretrained.folder import UnloadedCompressor, load_folder, save_folder
from framefold.adapters.pretrained.hub import locate_adapter
from framefold.adapters.pretrained.weights import read_weights
from framefold.errors import AdapterFileError, AttachError, ConfigError
from framefold.messages import short

from .config import (
    COMPRESSOR_PREFIX,
    LORA_WEIGHTS,
    LoraAdapter,
    check_lora,
    extract_lora,
    import_peft,
    lora_files,
    read_lora,
)
from .inject import inject_lora, refuse_occupied, restore_on_error

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class _Parts:
    """What a folder holds, checked as far as that goes without a host."""

    config: dict[str, Any]
    compressor: Compressor
    lora: LoraAdapter


def save_peft(model: PeftModel, folder: str | os.PathLike[str], **fields: Any) -> None:
    """Save the active adapter of a PEFT model together with the compressor it was trained behind.

    The folder is one that ``framefold.load`` reads, which gives the compressor; its ``lora/`` is one that PEFT reads,
    which gives LoRA alone. Files are written beside and renamed when all are there.

    Args:
        fields: further JSON-able fields of ``config.json``.

    Raises:
        AttachError: there is no compressor in the host.
        ConfigError: not LoRA, several active adapters, or a LoraConfig with more than :func:`load_peft` would read.
        MissingExtraError: PEFT is not installed.
        OSError: the folder cannot be written; files that were there stay whole.
    """
    host, adapter = _check_model(model)
    state: Any = getattr(host, ATTACHMENT_NAME)
    about = describe_host(host, state.positions, state.outputs)
    more = lora_files(*extract_lora(model, adapter))
    save_folder(compressor_with_adapter(host, COMPRESSOR_NAME, adapter)[0], folder, fields | about, more)


def describe_host(
    host: PreTrainedModel, positions: Positions = "preserve", outputs: Outputs = "compact"
) -> dict[str, Any]:
    """The fields of ``config.json`` that say behind what, and how, an adapter with LoRA was trained."""
    return {**base_model_of(host).fields(), "positions": positions, "outputs": outputs, "lora": True}


def load_peft(
    host: PreTrainedModel,
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    budget: float | int | None = None,
    trainable: bool = False,
    adapter_name: str = "default",
    allow_other_host: bool = False,
) -> PeftModel:
    """Attach a saved compressor to a host, with the positions and outputs it was saved with, and load its LoRA.

    Args:
        folder: what :func:`save_peft` wrote, or what ``PeftModel.save_pretrained`` wrote for an attached host; or
            ``user/name`` on the Hub. revision: branch, tag or commit there.
        budget: overrides the saved budget.
        trainable: go on training LoRA and compressor; otherwise both are frozen and the model is in eval mode.
        allow_other_host: take an adapter that was trained in other weights of the same kind and width.

    Returns:
        A stock PEFT model. ``disable_adapter()`` switches LoRA off and leaves the compressor as it was loaded.

    Raises:
        AdapterFileError: something is missing, damaged, or does not fit the host, which is then as it was before.
        AttachError: the host has a compressor already. WrongHostError: the adapter was trained in another host.
        UnsupportedHostError: not a host of a supported family.
        HubError: no such repository or revision, no permission, or no connection.
        MissingExtraError: PEFT is not installed.
    """
    import_peft()
    family_of(host)
    refuse_occupied(host)
    parts = _read(locate_adapter(folder, revision), budget)
    check_width(host, parts.config, folder)
    with restore_on_error(host, parts.lora.file):
        how: Any = {"positions": parts.config["positions"], "outputs": parts.config["outputs"]}
        attach(host, parts.compressor, allow_other_host=allow_other_host, **how)
        own = {f"{COMPRESSOR_PREFIX}{key}": value for key, value in parts.compressor.state_dict().items()}
        return inject_lora(host, parts.lora, own=own, trainable=trainable, adapter_name=adapter_name)


def check_width(host: PreTrainedModel, config: dict[str, Any], folder: Any) -> None:
    """Refuse an adapter of a host of another width.

    Args:
        config: of the adapter folder.

    Raises:
        AdapterFileError: it is one.
    """
    width = host.config.get_text_config().hidden_size
    if config.get("width", width) != width:
        raise AdapterFileError(
            f"{folder} was saved from a {short(config.get('host'))} host of width {short(config['width'])},"
            f" this {type(host).__name__} has {width}"
        )


def _check_model(model: Any) -> tuple[PreTrainedModel, str]:
    if not isinstance(model, import_peft().PeftModel):
        raise ConfigError(f"save_peft takes what get_peft_model returned, got {type(model).__name__}")
    host = model.get_base_model()
    if ATTACHMENT_NAME not in host.__dict__:
        raise AttachError("no compressor is attached to the host of this PEFT model: model.save_pretrained saves LoRA")
    active = model.active_adapters
    if len(active) != 1:
        raise ConfigError(f"one adapter is saved at a time, active are {active}: model.set_adapter(name) first")
    return host, active[0]


def _read(path: Path, budget: float | int | None) -> _Parts:
    if (path / ADAPTER_CONFIG).exists():
        parts = _read_marked(path, budget)
    else:
        config = read_config(path)
        if config.get("lora") is not True:
            raise AdapterFileError(
                f"{path} holds a compressor without LoRA: framefold.attach(host, framefold.load(...))"
            )
        parts = _Parts(config, load_folder(path, budget=budget), read_lora(path))
    for key, known in (("positions", get_args(Positions)), ("outputs", get_args(Outputs))):
        if parts.config.get(key) not in known:
            raise AdapterFileError(f"{path}: {key} must be one of {known}, got {short(parts.config.get(key))}")
    return parts


def _read_marked(path: Path, budget: float | int | None) -> _Parts:
    """A folder that PEFT wrote for an attached host: the compressor's weights are among those of the adapter."""
    file, weights_file = path / ADAPTER_CONFIG, path / LORA_WEIGHTS
    stock, config = stock_fields(read_adapter_json(file))
    tensors = read_weights(weights_file)
    state = {
        key.removeprefix(COMPRESSOR_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(COMPRESSOR_PREFIX)
    }
    compressor = UnloadedCompressor.of(check_config(config, file), file, budget=budget).fill(state, weights_file)
    saved = [name for name in stock.get("modules_to_save") or () if name != COMPRESSOR_NAME]
    weights = {key: value for key, value in tensors.items() if not key.startswith(COMPRESSOR_PREFIX)}
    lora = LoraAdapter({**stock, "modules_to_save": saved or None}, weights, weights_file)
    return _Parts(config, compressor, check_lora(lora))
