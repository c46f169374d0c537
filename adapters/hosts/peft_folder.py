"""Compressor and LoRA as one folder: the adapter folder of the compressor with ``lora/``, a stock PEFT folder, in it.

Read with safetensors and JSON only. Of a LoRA config the fields that say where the matrices go and how they are scaled
are taken; one that asks for more (an initialisation that changes the host, a module to import) is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..base import Compressor
from ..errors import AdapterFileError, AttachError, ConfigError, MissingExtraError
from ..folder import (
    CONFIG,
    WEIGHTS,
    check_config,
    check_finite,
    one_line,
    read_config,
    read_json,
    read_weights,
    restore,
    save_folder,
)
from ..params import short
from .attach import NAME, STATE, Outputs, attach, detach
from .family import family_of
from .peft_guard import ADAPTER_CONFIG, compressor_of, stock_fields
from .prompt import Positions

if TYPE_CHECKING:
    from peft import PeftModel

LORA, LORA_WEIGHTS = "lora", "adapter_model.safetensors"
PREFIX = f"base_model.model.{NAME}."
LARGEST_RANK = 4096  # of a downloaded config; the matrices are made before their file is compared with them
_LIST, _INDICES, _NUMBERS = (str, list, type(None)), (int, list, type(None)), (dict, type(None))
_FIELDS: dict[str, tuple[type, ...]] = {  # of LoraConfig
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "target_modules": (str, list),
    "exclude_modules": _LIST,
    "modules_to_save": (list, type(None)),
    "bias": (str,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "lora_bias": (bool,),
    "fan_in_fan_out": (bool,),
    "layers_to_transform": _INDICES,
    "layers_pattern": _LIST,
    "rank_pattern": _NUMBERS,
    "alpha_pattern": _NUMBERS,
    "task_type": (str, type(None)),
}
_IGNORED = {
    "peft_type",
    "inference_mode",
    "auto_mapping",
    "peft_version",
    "runtime_config",
    "megatron_core",  # of no use without megatron_config, which is refused
    "base_model_name_or_path",
    "revision",
}
_HARMLESS = {"init_lora_weights": (True, False, "gaussian", "orthogonal")}


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a folder holds, checked as far as that goes without a host."""

    config: dict[str, Any]
    compressor: Compressor
    lora: dict[str, Any]
    weights: dict[str, Tensor]
    file: Path


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
    state: Any = getattr(host, STATE)
    config, weights = _lora_of(model, adapter)
    text = json.dumps({**config, "inference_mode": True}, indent=2, sort_keys=True)
    about = {
        "host": host.config.model_type,
        "width": host.config.get_text_config().hidden_size,
        "positions": state.positions,
        "outputs": state.outputs,
        "lora": True,
    }
    more = {
        f"{LORA}/{LORA_WEIGHTS}": lambda beside: save_file(weights, beside, metadata={"format": "pt"}),
        f"{LORA}/{ADAPTER_CONFIG}": lambda beside: beside.write_text(text),
    }
    save_folder(compressor_of(host, NAME, adapter)[0], folder, fields | about, more)


def load_peft(
    host: PreTrainedModel,
    folder: str | os.PathLike[str],
    *,
    budget: float | int | None = None,
    trainable: bool = False,
    adapter_name: str = "default",
) -> PeftModel:
    """Attach a saved compressor to a host, with the positions and outputs it was saved with, and load its LoRA.

    Args:
        folder: what :func:`save_peft` wrote, or what ``PeftModel.save_pretrained`` wrote for an attached host.
        budget: overrides the saved budget.
        trainable: go on training LoRA and compressor; otherwise both are frozen and the model is in eval mode.

    Returns:
        A stock PEFT model. ``disable_adapter()`` switches LoRA off and leaves the compressor as it was loaded.

    Raises:
        AdapterFileError: something is missing, damaged, or does not fit the host, which is then as it was before.
        AttachError: the host has a compressor already.
        UnsupportedHostError: not a host of a supported family.
        MissingExtraError: PEFT is not installed.
    """
    _peft()
    family_of(host)
    if STATE in host.__dict__ or getattr(host, "peft_config", None):
        raise AttachError("this host has a compressor or adapters already: framefold.detach it, unload() them first")
    parts = _read(Path(folder), budget)
    width = host.config.get_text_config().hidden_size
    if parts.config.get("width", width) != width:
        raise AdapterFileError(
            f"{folder} was saved from a {short(parts.config.get('host'))} host of width {parts.config['width']},"
            f" this {type(host).__name__} has {width}"
        )
    with _all_or_nothing(host, parts.file):
        attach(host, parts.compressor, positions=parts.config["positions"], outputs=parts.config["outputs"])
        return _inject(host, parts, trainable, adapter_name)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("PEFT is not installed: pip install 'framefold[lora]'") from error
    return peft


def _check_model(model: Any) -> tuple[PreTrainedModel, str]:
    if not isinstance(model, _peft().PeftModel):
        raise ConfigError(f"save_peft takes what get_peft_model returned, got {type(model).__name__}")
    host = model.get_base_model()
    if STATE not in host.__dict__:
        raise AttachError("no compressor is attached to the host of this PEFT model: model.save_pretrained saves LoRA")
    active = model.active_adapters
    if len(active) != 1:
        raise ConfigError(f"one adapter is saved at a time, active are {active}: model.set_adapter(name) first")
    return host, active[0]


def _lora_of(model: Any, adapter: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of a LoRA adapter as PEFT saves them, without the compressor."""
    config = model.peft_config[adapter]
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    problem = _problem(fields)
    if problem is not None:
        raise ConfigError(f"save_peft cannot save this adapter: {problem}")
    saved = [name for name in fields["modules_to_save"] or () if name != NAME]
    fields["modules_to_save"] = saved or None
    state = _peft().get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    weights = {key: value.detach().contiguous().cpu() for key, value in state.items() if not key.startswith(PREFIX)}
    if any(value.numel() == 0 for value in weights.values()):
        raise ConfigError(
            "the weights are partitioned by ZeRO-3: gather them (deepspeed.zero.GatheredParameters) first"
        )
    return fields, weights


def _problem(fields: Mapping[str, Any]) -> str | None:
    """Why a LoRA config is not one that this file reads and writes; None if it is."""
    if fields.get("peft_type") != "LORA":
        return f"peft_type is {short(fields.get('peft_type'))}, not 'LORA'"
    for name, kinds in _FIELDS.items():
        value = fields.get(name, _defaults()[name])
        if not isinstance(value, kinds) or isinstance(value, bool) and bool not in kinds:
            return f"{name} is {short(value)}"
    for name, values in _HARMLESS.items():
        if fields.get(name, True) not in values:
            return f"{name}={short(fields[name])} changes the host"
    for name, value in fields.items():
        known = name in _FIELDS or name in _IGNORED or name in _HARMLESS
        if not known and value and value != _defaults().get(name):
            return f"{name}={short(value)} is not supported"
    ranks = [fields.get("r", 8), *(fields.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and 1 <= rank <= LARGEST_RANK for rank in ranks):
        return f"ranks must be 1 to {LARGEST_RANK}, got {short(ranks)}"
    return None


@functools.cache
def _defaults() -> dict[str, Any]:
    return _peft().LoraConfig().to_dict()


def _read(path: Path, budget: float | int | None) -> _Parts:
    if (path / ADAPTER_CONFIG).exists():
        parts = _read_marked(path, budget)
    else:
        file, weights_file = path / CONFIG, path / WEIGHTS
        config = read_config(path)
        if config.get("lora") is not True:
            raise AdapterFileError(
                f"{path} holds a compressor without LoRA: framefold.attach(host, framefold.load(...))"
            )
        fields = read_json(path / LORA / ADAPTER_CONFIG)
        lora_file = path / LORA / LORA_WEIGHTS
        compressor = restore(config, read_weights(weights_file), file, weights_file, budget=budget)
        parts = _Parts(config, compressor, fields, read_weights(lora_file), lora_file)
    for key, known in (("positions", get_args(Positions)), ("outputs", get_args(Outputs))):
        if parts.config.get(key) not in known:
            raise AdapterFileError(f"{path}: {key} must be one of {known}, got {short(parts.config.get(key))}")
    if not parts.weights:
        raise AdapterFileError(f"{parts.file} is missing or empty")
    check_finite(parts.weights, parts.file)
    problem = _problem(parts.lora)
    if problem is not None:
        raise AdapterFileError(f"{parts.file.parent / ADAPTER_CONFIG}: {problem}")
    return parts


def _read_marked(path: Path, budget: float | int | None) -> _Parts:
    """A folder that PEFT wrote for an attached host: the compressor's weights are among those of the adapter."""
    file, weights_file = path / ADAPTER_CONFIG, path / LORA_WEIGHTS
    stock, config = stock_fields(read_json(file))
    tensors = read_weights(weights_file)
    state = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
    compressor = restore(check_config(config, file), state, file, weights_file, budget=budget)
    saved = [name for name in stock.get("modules_to_save") or () if name != NAME]
    weights = {key: value for key, value in tensors.items() if not key.startswith(PREFIX)}
    return _Parts(config, compressor, {**stock, "modules_to_save": saved or None}, weights, weights_file)


def _inject(host: PreTrainedModel, parts: _Parts, trainable: bool, adapter: str) -> PeftModel:
    """Put LoRA into the host, make sure that its tensors are those of the file, and load them."""
    peft = _peft()
    fields = {name: parts.lora[name] for name in _FIELDS if name in parts.lora}
    own = {f"{PREFIX}{key}": value for key, value in parts.compressor.state_dict().items()}
    saved = [*(fields.get("modules_to_save") or ()), *([NAME] if own else [])]
    config = peft.LoraConfig(**{**fields, "modules_to_save": saved or None, "inference_mode": not trainable})
    model = peft.get_peft_model(host, config, adapter_name=adapter)
    wanted = peft.get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    given = parts.weights | own
    for key in sorted(wanted.keys() ^ given.keys()):
        raise AdapterFileError(
            f"{parts.file} does not fit: {key} is {'missing' if key in wanted else 'not in the host'}"
        )
    for key, value in wanted.items():
        if value.shape != given[key].shape:
            raise AdapterFileError(
                f"{parts.file} does not fit: {key} is {tuple(given[key].shape)}, the host needs {tuple(value.shape)}"
            )
    peft.set_peft_model_state_dict(model, given, adapter_name=adapter)
    return model if trainable else model.eval()


@contextmanager
def _all_or_nothing(host: Any, file: Path) -> Iterator[None]:
    """Leave the host as it was if anything goes wrong inside, and say that as an error of the file."""
    frozen = {name: parameter.requires_grad for name, parameter in host.named_parameters()}
    try:
        yield
    except Exception as error:
        _strip(host)
        for name, parameter in host.named_parameters():
            parameter.requires_grad_(frozen[name])
        if isinstance(error, (AdapterFileError, AttachError)):
            raise
        raise AdapterFileError(f"{file} does not fit this {type(host).__name__}: {one_line(error)}") from error


def _strip(host: Any) -> None:
    """Take LoRA layers out of a host, also those of an injection that broke off, and the compressor."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    for name, module in reversed(list(host.named_modules())):  # from the inside out
        if isinstance(module, (AuxiliaryTrainingWrapper, BaseTunerLayer)):
            parent, _, child = name.rpartition(".")
            inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            setattr(host.get_submodule(parent), child, inner)
    host.__dict__.pop("peft_config", None)
    if STATE in host.__dict__:
        detach(host)
