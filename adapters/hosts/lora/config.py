"""Read and write LoRA (arXiv 2106.09685) as a stock PEFT folder, without executing anything from the folder.

Only safetensors and JSON are read. Of a LoRA config, only the fields that place and scale the matrices are used; a
config with other effects (an initialisation that changes the host, a module to import) is refused.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from framefold.adapters.hosts.hooks.peft_guard import ADAPTER_CONFIG
from framefold.adapters.hosts.hooks.state import COMPRESSOR_NAME
from framefold.adapters.pretrained.config import read_adapter_json, read_config
from framefold.adapters.pretrained.weights import check_finite, read_weights
from framefold.errors import AdapterFileError, ConfigError, MissingExtraError
from framefold.messages import install_command, short

from .patterns import find_dangerous_pattern

if TYPE_CHECKING:
    from peft import PeftModel


LORA_FOLDER, LORA_WEIGHTS = "lora", "adapter_model.safetensors"

COMPRESSOR_PREFIX = f"base_model.model.{COMPRESSOR_NAME}."

LARGEST_RANK = 4096  # limit for downloaded configs: the matrices are allocated before their file is compared with them

_LIST, _INDICES, _NUMBERS = (str, list, type(None)), (int, list, type(None)), (dict, type(None))

FIELDS: dict[str, tuple[type, ...]] = {  # of LoraConfig
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
    "megatron_core",  # has no effect without megatron_config, which is refused
    "base_model_name_or_path",
    "revision",
}

_HARMLESS = {"init_lora_weights": (True, False, "gaussian", "orthogonal")}


@dataclass(frozen=True)
class LoraAdapter:
    """Config and weights of LoRA, outside a host.

    Attributes:
        fields: fields of its ``adapter_config.json``.
        weights: tensors by the names under which PEFT saves them.
        file: file of the weights, for messages.
    """

    fields: dict[str, Any]
    weights: dict[str, Tensor]
    file: Path


def import_peft() -> Any:
    """Import and return the PEFT library.

    Raises:
        MissingExtraError: PEFT is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError(f"PEFT is not installed: {install_command('lora')}") from error
    return peft


def has_lora(folder: Path) -> bool:
    """Return whether an adapter folder contains LoRA next to the compressor, according to its config.

    Raises:
        AdapterFileError: the folder is not an adapter folder.
    """
    return read_config(folder).get("lora") is True


def read_lora(folder: Path) -> LoraAdapter:
    """Read ``lora/`` of an adapter folder.

    Raises:
        AdapterFileError: ``lora/`` is missing or damaged, is not LoRA, or has unsupported fields.
    """
    file = folder / LORA_FOLDER / LORA_WEIGHTS
    return check_lora(LoraAdapter(read_adapter_json(folder / LORA_FOLDER / ADAPTER_CONFIG), read_weights(file), file))


def check_lora(lora: LoraAdapter) -> LoraAdapter:
    """Return the LoRA unchanged if it is complete and supported.

    Raises:
        AdapterFileError: weights are missing, NaN or infinite, or the config is not supported.
    """
    if not lora.weights:
        raise AdapterFileError(f"{lora.file} is missing or empty")
    check_finite(lora.weights, lora.file)
    problem = find_unsupported(lora.fields)
    if problem is not None:
        raise AdapterFileError(f"{lora.file.parent / ADAPTER_CONFIG}: {problem}")
    return lora


def find_unsupported(fields: Mapping[str, Any]) -> str | None:
    """Return why the config of an adapter is not supported, or None if it is."""
    if fields.get("peft_type") != "LORA":
        return f"peft_type is {short(fields.get('peft_type'))}, not 'LORA'"
    for name, kinds in FIELDS.items():
        value = fields.get(name, default_fields()[name])
        infinite = isinstance(value, float) and not math.isfinite(value)
        if not isinstance(value, kinds) or isinstance(value, bool) and bool not in kinds or infinite:
            return f"{name} is {short(value)}"
    for name, values in _HARMLESS.items():
        if fields.get(name, True) not in values:
            return f"{name}={short(fields[name])} changes the host"
    for name, value in fields.items():
        known = name in FIELDS or name in _IGNORED or name in _HARMLESS
        if not known and value and value != default_fields().get(name):
            return f"{short(name)[1:-1]}={short(value)} is not supported"
    ranks = [fields.get("r", 8), *(fields.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and 1 <= rank <= LARGEST_RANK for rank in ranks):
        return f"ranks must be 1 to {LARGEST_RANK}, got {short(ranks)}"
    return find_dangerous_pattern(fields)


@functools.cache
def default_fields() -> dict[str, Any]:
    """Return the fields of a LoraConfig with default values."""
    return import_peft().LoraConfig().to_dict()


def extract_lora(model: PeftModel, adapter: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the fields and tensors of an adapter as PEFT saves them, without the compressor.

    Raises:
        ConfigError: the adapter is not LoRA, has fields that :func:`read_lora` would refuse, or has weights that are
            partitioned by ZeRO-3.
    """
    config: Any = model.peft_config[adapter]
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    problem = find_unsupported(fields)
    if problem is not None:
        raise ConfigError(f"this adapter cannot be saved: {problem}")
    saved = [name for name in fields["modules_to_save"] or () if name != COMPRESSOR_NAME]
    fields["modules_to_save"] = saved or None
    state = import_peft().get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    weights = {
        key: value.detach().contiguous().cpu() for key, value in state.items() if not key.startswith(COMPRESSOR_PREFIX)
    }
    if any(value.numel() == 0 for value in weights.values()):
        raise ConfigError(
            "the weights are partitioned by ZeRO-3: gather them (deepspeed.zero.GatheredParameters) first"
        )
    return fields, weights


def lora_files(fields: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Callable[[Path], Any]]:
    """Return the files of ``lora/``, for ``more`` of :func:`~framefold.adapters.pretrained.folder.save_folder`."""
    text = json.dumps({**fields, "inference_mode": True}, indent=2, sort_keys=True)
    return {
        f"{LORA_FOLDER}/{LORA_WEIGHTS}": lambda temporary: save_file(
            dict(weights), temporary, metadata={"format": "pt"}
        ),
        f"{LORA_FOLDER}/{ADAPTER_CONFIG}": lambda temporary: temporary.write_text(text),
    }
