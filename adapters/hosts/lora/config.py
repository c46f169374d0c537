"""LoRA (arXiv 2106.09685) as a stock PEFT folder, read without running anything, and written.

Read with safetensors and JSON only. Of a LoRA config the fields that say where the matrices go and how they are scaled
are taken; one that asks for more (an initialisation that changes the host, a module to import) is refused.
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
from framefold.messages import short

from .patterns import find_dangerous_pattern

if TYPE_CHECKING:
    from peft import PeftModel


LORA_FOLDER, LORA_WEIGHTS = "lora", "adapter_model.safetensors"

COMPRESSOR_PREFIX = f"base_model.model.{COMPRESSOR_NAME}."

LARGEST_RANK = 4096  # of a downloaded config; the matrices are made before their file is compared with them

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
    "megatron_core",  # of no use without megatron_config, which is refused
    "base_model_name_or_path",
    "revision",
}

_HARMLESS = {"init_lora_weights": (True, False, "gaussian", "orthogonal")}


@dataclass(frozen=True)
class LoraAdapter:
    """LoRA outside of a host.

    Attributes:
        fields: of its ``adapter_config.json``.
        weights: by the names that PEFT saves them under.
        file: of the weights, for messages.
    """

    fields: dict[str, Any]
    weights: dict[str, Tensor]
    file: Path


def import_peft() -> Any:
    """The PEFT library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("PEFT is not installed: pip install 'framefold[lora]'") from error
    return peft


def has_lora(folder: Path) -> bool:
    """Whether the config of an adapter folder says that there is LoRA beside the compressor.

    Raises:
        AdapterFileError: no adapter folder.
    """
    return read_config(folder).get("lora") is True


def read_lora(folder: Path) -> LoraAdapter:
    """Read the ``lora/`` of an adapter folder.

    Raises:
        AdapterFileError: missing, damaged, not LoRA, or with more than is read here; see the message.
    """
    file = folder / LORA_FOLDER / LORA_WEIGHTS
    return check_lora(LoraAdapter(read_adapter_json(folder / LORA_FOLDER / ADAPTER_CONFIG), read_weights(file), file))


def check_lora(lora: LoraAdapter) -> LoraAdapter:
    """The same, if it is whole and asks for nothing but LoRA.

    Raises:
        AdapterFileError: it is not so.
    """
    if not lora.weights:
        raise AdapterFileError(f"{lora.file} is missing or empty")
    check_finite(lora.weights, lora.file)
    problem = find_unsupported(lora.fields)
    if problem is not None:
        raise AdapterFileError(f"{lora.file.parent / ADAPTER_CONFIG}: {problem}")
    return lora


def find_unsupported(fields: Mapping[str, Any]) -> str | None:
    """Why the config of an adapter is not one that is read and written here; None if it is."""
    if fields.get("peft_type") != "LORA":
        return f"peft_type is {short(fields.get('peft_type'))}, not 'LORA'"
    for name, kinds in FIELDS.items():
        value = fields.get(name, default_fields()[name])
        endless = isinstance(value, float) and not math.isfinite(value)
        if not isinstance(value, kinds) or isinstance(value, bool) and bool not in kinds or endless:
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
    """What a fresh LoraConfig holds."""
    return import_peft().LoraConfig().to_dict()


def extract_lora(model: PeftModel, adapter: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of an adapter as PEFT saves them, without the compressor.

    Raises:
        ConfigError: not LoRA, or with more than :func:`read_lora` would read; or ZeRO-3 has taken it apart.
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
    """The files of ``lora/``, for ``more`` of :func:`~framefold.adapters.pretrained.folder.save_folder`."""
    text = json.dumps({**fields, "inference_mode": True}, indent=2, sort_keys=True)
    return {
        f"{LORA_FOLDER}/{LORA_WEIGHTS}": lambda beside: save_file(dict(weights), beside, metadata={"format": "pt"}),
        f"{LORA_FOLDER}/{ADAPTER_CONFIG}": lambda beside: beside.write_text(text),
    }
