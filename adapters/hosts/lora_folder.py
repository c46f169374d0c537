"""LoRA (arXiv 2106.09685) as a stock PEFT folder: read without running anything, put into a host, taken out again.

Read with safetensors and JSON only. Of a LoRA config the fields that say where the matrices go and how they are scaled
are taken; one that asks for more (an initialisation that changes the host, a module to import) is refused.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import AdapterFileError, AttachError, ConfigError, MissingExtraError
from ..folder import check_finite, one_line, read_config, read_json, read_weights
from ..params import short
from .attach import NAME, STATE, detach
from .peft_guard import ADAPTER_CONFIG

if TYPE_CHECKING:
    from peft import PeftModel

LORA, LORA_WEIGHTS = "lora", "adapter_model.safetensors"
PREFIX = f"base_model.model.{NAME}."
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
class Lora:
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


def read_lora(folder: Path) -> Lora:
    """Read the ``lora/`` of an adapter folder.

    Raises:
        AdapterFileError: missing, damaged, not LoRA, or with more than is read here; see the message.
    """
    file = folder / LORA / LORA_WEIGHTS
    return check_lora(Lora(read_json(folder / LORA / ADAPTER_CONFIG), read_weights(file), file))


def check_lora(lora: Lora) -> Lora:
    """The same, if it is whole and asks for nothing but LoRA.

    Raises:
        AdapterFileError: it is not so.
    """
    if not lora.weights:
        raise AdapterFileError(f"{lora.file} is missing or empty")
    check_finite(lora.weights, lora.file)
    problem = problem_of(lora.fields)
    if problem is not None:
        raise AdapterFileError(f"{lora.file.parent / ADAPTER_CONFIG}: {problem}")
    return lora


def problem_of(fields: Mapping[str, Any]) -> str | None:
    """Why the config of an adapter is not one that is read and written here; None if it is."""
    if fields.get("peft_type") != "LORA":
        return f"peft_type is {short(fields.get('peft_type'))}, not 'LORA'"
    for name, kinds in FIELDS.items():
        value = fields.get(name, default_fields()[name])
        if not isinstance(value, kinds) or isinstance(value, bool) and bool not in kinds:
            return f"{name} is {short(value)}"
    for name, values in _HARMLESS.items():
        if fields.get(name, True) not in values:
            return f"{name}={short(fields[name])} changes the host"
    for name, value in fields.items():
        known = name in FIELDS or name in _IGNORED or name in _HARMLESS
        if not known and value and value != default_fields().get(name):
            return f"{name}={short(value)} is not supported"
    ranks = [fields.get("r", 8), *(fields.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and 1 <= rank <= LARGEST_RANK for rank in ranks):
        return f"ranks must be 1 to {LARGEST_RANK}, got {short(ranks)}"
    return None


@functools.cache
def default_fields() -> dict[str, Any]:
    """What a fresh LoraConfig holds."""
    return import_peft().LoraConfig().to_dict()


def take_lora(model: PeftModel, adapter: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields and tensors of an adapter as PEFT saves them, without the compressor.

    Raises:
        ConfigError: not LoRA, or with more than :func:`read_lora` would read; or ZeRO-3 has taken it apart.
    """
    config: Any = model.peft_config[adapter]
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    problem = problem_of(fields)
    if problem is not None:
        raise ConfigError(f"this adapter cannot be saved: {problem}")
    saved = [name for name in fields["modules_to_save"] or () if name != NAME]
    fields["modules_to_save"] = saved or None
    state = import_peft().get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    weights = {key: value.detach().contiguous().cpu() for key, value in state.items() if not key.startswith(PREFIX)}
    if any(value.numel() == 0 for value in weights.values()):
        raise ConfigError(
            "the weights are partitioned by ZeRO-3: gather them (deepspeed.zero.GatheredParameters) first"
        )
    return fields, weights


def lora_files(fields: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Callable[[Path], Any]]:
    """The files of ``lora/``, for ``more`` of :func:`~framefold.adapters.folder.save_folder`."""
    text = json.dumps({**fields, "inference_mode": True}, indent=2, sort_keys=True)
    return {
        f"{LORA}/{LORA_WEIGHTS}": lambda beside: save_file(dict(weights), beside, metadata={"format": "pt"}),
        f"{LORA}/{ADAPTER_CONFIG}": lambda beside: beside.write_text(text),
    }


def inject_lora(
    host: PreTrainedModel,
    lora: Lora,
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
        AdapterFileError: the tensors are not those of this host; call it inside :func:`all_or_nothing`.
    """
    peft = import_peft()
    fields = {name: lora.fields[name] for name in FIELDS if name in lora.fields}
    saved = [*(fields.get("modules_to_save") or ()), *([NAME] if own else [])]
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
def with_lora(host: PreTrainedModel, lora: Lora) -> Iterator[PeftModel]:
    """Run a bare host with LoRA, frozen and in eval mode; afterwards it is what it was, bit for bit.

    Raises:
        AdapterFileError: the LoRA does not fit the host, which is then as it was before.
        AttachError: the host has adapters already.
    """
    refuse_taken(host)
    flags = {parameter: parameter.requires_grad for parameter in host.parameters()}
    modes = {module: module.training for module in host.modules()}
    with all_or_nothing(host, lora.file):
        model = inject_lora(host, lora)
    try:
        yield model
    finally:
        strip(host)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode


def refuse_taken(host: PreTrainedModel) -> None:
    """Refuse a host with a compressor or adapters.

    Raises:
        AttachError: it has some.
    """
    if STATE in host.__dict__ or getattr(host, "peft_config", None):
        raise AttachError("this host has a compressor or adapters already: framefold.detach it, unload() them first")


def outside_of_language_model(host: PreTrainedModel) -> str | None:
    """Name of a module with LoRA, or of a copied one, that is not in the language model; None if there is none."""
    inside = {id(module) for module in host.get_decoder().modules()}
    adapted = ((name, module) for name, module in host.named_modules() if _is_adapted(module))
    return next((name for name, module in adapted if id(module) not in inside), None)


def _is_adapted(module: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    return isinstance(module, (AuxiliaryTrainingWrapper, BaseTunerLayer))


@contextmanager
def all_or_nothing(host: Any, file: Path) -> Iterator[None]:
    """Leave the host as it was if anything goes wrong inside, and say that as an error of the file."""
    frozen = {name: parameter.requires_grad for name, parameter in host.named_parameters()}
    try:
        yield
    except Exception as error:
        strip(host)
        for name, parameter in host.named_parameters():
            parameter.requires_grad_(frozen[name])
        if isinstance(error, (AdapterFileError, AttachError)):
            raise
        raise AdapterFileError(f"{file} does not fit this {type(host).__name__}: {one_line(error)}") from error


def strip(host: Any) -> None:
    """Take LoRA layers out of a host, also those of an injection that broke off, and the compressor."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in reversed(list(host.named_modules())):  # from the inside out
        if _is_adapted(module):
            parent, _, child = name.rpartition(".")
            inner: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module.original_module
            setattr(host.get_submodule(parent), child, inner)
    host.__dict__.pop("peft_config", None)
    if STATE in host.__dict__:
        detach(host)
