"""Save and load compressor and LoRA as one folder: an adapter folder that contains a stock PEFT folder, ``lora/``.

Only safetensors and JSON are read. Of a LoRA config, only the fields that place and scale the matrices are used; a
config with other effects (an initialisation that changes the host, a module to import) is refused.
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
class _SavedAdapter:
    """Contents of an adapter folder, checked as far as possible without a host."""

    config: dict[str, Any]
    compressor: Compressor
    lora: LoraAdapter


def save_peft(model: PeftModel, folder: str | os.PathLike[str], **fields: Any) -> None:
    """Save the active adapter of a PEFT model together with its compressor.

    ``framefold.load`` reads the compressor from the folder; PEFT reads LoRA alone from its ``lora/``. Files are written
    under temporary names and renamed once all are complete.

    Args:
        model: the PEFT model, around an attached host.
        folder: where to write.
        fields: further JSON-serialisable fields of ``config.json``.

    Raises:
        AttachError: no compressor is attached to the host.
        ConfigError: the adapter is not LoRA, several adapters are active, or the LoraConfig has fields that
            :func:`load_peft` would refuse.
        MissingExtraError: PEFT is not installed.
        OSError: the folder cannot be written; existing files stay intact.
    """
    host, adapter = _check_model(model)
    attachment: Any = getattr(host, ATTACHMENT_NAME)
    host_fields = describe_host(host, attachment.positions, attachment.outputs)
    more = lora_files(*extract_lora(model, adapter))
    save_folder(compressor_with_adapter(host, COMPRESSOR_NAME, adapter)[0], folder, fields | host_fields, more)


def describe_host(
    host: PreTrainedModel, positions: Positions = "preserve", outputs: Outputs = "compact"
) -> dict[str, Any]:
    """Return the fields of ``config.json`` that describe the host and options an adapter with LoRA was trained with."""
    return {**base_model_of(host).to_config(), "positions": positions, "outputs": outputs, "lora": True}


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
        host: the host, without a compressor or adapters.
        folder: folder written by :func:`save_peft`, or by ``PeftModel.save_pretrained`` for an attached host; or
            ``user/name`` on the Hub.
        revision: branch, tag or commit on the Hub.
        budget: overrides the saved budget.
        trainable: keep LoRA and compressor trainable; otherwise both are frozen and the model is in eval mode.
        adapter_name: name of the adapter in PEFT.
        allow_other_host: accept an adapter that was trained in another host of the same kind and width.

    Returns:
        A stock PEFT model. ``disable_adapter()`` disables LoRA and leaves the compressor as it was loaded.

    Raises:
        AdapterFileError: a file is missing, damaged, or does not fit the host, which is then unchanged.
        AttachError: the host already has a compressor or adapters.
        WrongHostError: the adapter was trained in another host.
        UnsupportedHostError: the host is of no supported family.
        HubError: the repository or revision does not exist, access is denied, or there is no connection.
        MissingExtraError: PEFT is not installed.
    """
    import_peft()
    family_of(host)
    refuse_occupied(host)
    saved = _read(locate_adapter(folder, revision), budget)
    check_width(host, saved.config, folder)
    with restore_on_error(host, saved.lora.file):
        options: Any = {"positions": saved.config["positions"], "outputs": saved.config["outputs"]}
        attach(host, saved.compressor, allow_other_host=allow_other_host, **options)
        weights = {f"{COMPRESSOR_PREFIX}{key}": value for key, value in saved.compressor.state_dict().items()}
        return inject_lora(host, saved.lora, compressor_weights=weights, trainable=trainable, adapter_name=adapter_name)


def check_width(host: PreTrainedModel, config: dict[str, Any], folder: Any) -> None:
    """Refuse an adapter of a host of another width.

    Args:
        host: the host.
        config: config of the adapter folder.
        folder: the adapter folder, for the message.

    Raises:
        AdapterFileError: the widths differ.
    """
    width = host.config.get_text_config().hidden_size
    if config.get("width", width) != width:
        raise AdapterFileError(
            f"{folder} was saved from a {short(config.get('host'))} host of width {short(config['width'])},"
            f" this {type(host).__name__} has {width}"
        )


def _check_model(model: Any) -> tuple[PreTrainedModel, str]:
    if not isinstance(model, import_peft().PeftModel):
        raise ConfigError(f"save_peft needs a PEFT model (get_peft_model), got {type(model).__name__}")
    host = model.get_base_model()
    if ATTACHMENT_NAME not in host.__dict__:
        raise AttachError(
            "no compressor is attached to the host of this PEFT model: save LoRA alone with model.save_pretrained"
        )
    active = model.active_adapters
    if len(active) != 1:
        raise ConfigError(f"save_peft saves one adapter, but {active} are active: call model.set_adapter(name) first")
    return host, active[0]


def _read(path: Path, budget: float | int | None) -> _SavedAdapter:
    if (path / ADAPTER_CONFIG).exists():
        saved = _read_peft_folder(path, budget)
    else:
        config = read_config(path)
        if config.get("lora") is not True:
            raise AdapterFileError(
                f"{path} contains a compressor without LoRA: use framefold.attach(host, framefold.load(...))"
            )
        saved = _SavedAdapter(config, load_folder(path, budget=budget), read_lora(path))
    for key, known in (("positions", get_args(Positions)), ("outputs", get_args(Outputs))):
        if saved.config.get(key) not in known:
            raise AdapterFileError(f"{path}: {key} must be one of {known}, got {short(saved.config.get(key))}")
    return saved


def _read_peft_folder(path: Path, budget: float | int | None) -> _SavedAdapter:
    """Read a folder that PEFT wrote for an attached host, where the weights of compressor and LoRA share a file."""
    file, weights_file = path / ADAPTER_CONFIG, path / LORA_WEIGHTS
    stock, config = stock_fields(read_adapter_json(file))
    tensors = read_weights(weights_file)
    state = {
        key.removeprefix(COMPRESSOR_PREFIX): value
        for key, value in tensors.items()
        if key.startswith(COMPRESSOR_PREFIX)
    }
    compressor = UnloadedCompressor.from_config(check_config(config, file), file, budget=budget).load_weights(
        state, weights_file
    )
    saved = [name for name in stock.get("modules_to_save") or () if name != COMPRESSOR_NAME]
    weights = {key: value for key, value in tensors.items() if not key.startswith(COMPRESSOR_PREFIX)}
    lora = LoraAdapter({**stock, "modules_to_save": saved or None}, weights, weights_file)
    return _SavedAdapter(config, compressor, check_lora(lora))
