"""Load what ``framefold export`` exports: a training checkpoint, an adapter, or a compressor without weights."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from framefold.adapters.base.build import registered_name
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.registry import (
    CHAIN_SEPARATOR,
    compressor_class,
    create_compressor,
    imported_name,
    list_compressors,
)
from framefold.adapters.hosts.lora.config import LoraAdapter, check_lora, has_lora, read_lora
from framefold.adapters.pretrained.config import CONFIG, read_config
from framefold.adapters.pretrained.folder import compressor_fields, load_folder
from framefold.adapters.pretrained.hub import HUB_ID, locate_adapter
from framefold.errors import (
    AdapterFileError,
    ConfigError,
    FramefoldError,
    MissingExtraError,
)
from framefold.training.checkpoint.inventory import first_sentence
from framefold.training.checkpoint.read import read_run_state, trained_weights

from .choose import Choice, Which, choose_checkpoint
from .recipe import find_base_model, training_recipe
from .write import Adapter


@dataclass(frozen=True)
class TrainedCheckpoint:
    """Contents of a training checkpoint.

    Attributes:
        compressor: compressor with its trained weights.
        hyper: hyper-parameters of the training run, with its number of steps, its seed and its start.
        lora: LoRA that was trained with the compressor, if any.
        host_fields: fields of config.json that describe the host of the training.
    """

    compressor: Compressor
    hyper: dict[str, Any]
    lora: LoraAdapter | None
    host_fields: dict[str, Any]


def load_for_export(
    source: str, base_model: str | None, budget: Any, params: dict[str, Any] | None, which: Which | None = None
) -> Adapter:
    """Load and check what will be exported, without writing anything.

    Args:
        source: checkpoint or run folder; adapter, as a folder or by its name on the Hub; or the name of a compressor
            without weights.
        base_model: name of the host on the Hub, if the training used a local copy of it.
        budget: default budget of the adapter; None: that of the training.
        params: parameters of a compressor without weights.
        which: checkpoint of a run folder, see :func:`~framefold.training.export.choose.choose_checkpoint`.

    Raises:
        AdapterFileError: there is no checkpoint, or it is damaged or was not written by ``framefold fit``.
        ConfigError: the compressor must be trained first, params are given for one that is trained, or ``which`` is
            given for something else than a run folder.
    """
    path = Path(source)
    if not path.exists() and "/" not in source and _is_compressor(source):
        cls = compressor_class(registered_name(source))
        if which is not None:
            raise ConfigError(f"{source} is a compressor and has no checkpoints: --which chooses those of a run folder")
        if cls.trainable:
            raise ConfigError(
                f"{source} has weights that must be trained: export the run or the checkpoint of its training"
            )
        compressor = create_compressor(cls, 0.25 if budget is None else budget, params or {})
        return Adapter(compressor, find_base_model(None, None, base_model).to_config(), None, source)
    if params:
        raise ConfigError(f"params are only for a compressor without weights; {source} has its own")
    is_adapter = (path / CONFIG).is_file() or not path.exists() and HUB_ID.fullmatch(source)
    if is_adapter and which is not None:
        raise ConfigError(f"{source} is an adapter: --which chooses one of the checkpoints of a run folder")
    adapter = (
        _from_adapter(locate_adapter(source), base_model)
        if is_adapter
        else _from_checkpoint(choose_checkpoint(path, which), base_model)
    )
    if budget is not None:
        adapter.compressor.budget = budget
    return adapter


def _is_compressor(text: str) -> bool:
    """Whether a text that is no file names a compressor: registered, a chain, or the class path of a package."""
    package, *rest = text.split(".")
    is_class_path = bool(rest) and all(part.isidentifier() for part in (package, *rest)) and find_spec(package)
    return CHAIN_SEPARATOR in text or text in list_compressors() or bool(is_class_path)


def _from_checkpoint(choice: Choice, base_model: str | None) -> Adapter:
    path, trained = choice.path, read_checkpoint(choice.path)
    host, revision = (trained.hyper.get(key) for key in ("host", "host_revision"))
    base = find_base_model(host, revision, base_model)
    known = {"host_weights": trained.host_fields["host_weights"]} if trained.host_fields.get("host_weights") else {}
    fields = trained.host_fields | base.to_config() | known | training_recipe(trained.hyper, path)
    source = f"{path}, {choice.reason}" if choice.reason else str(path)
    return Adapter(trained.compressor, fields, trained.lora, source)


def _from_adapter(folder: Path, base_model: str | None) -> Adapter:
    compressor, config = load_folder(folder), read_config(folder)
    fields = {key: value for key, value in config.items() if key not in compressor_fields(compressor)}
    lora = read_lora(folder) if has_lora(folder) else None
    return Adapter(compressor, fields | find_base_model(None, None, base_model).to_config(), lora, str(folder))


def read_checkpoint(path: Path) -> TrainedCheckpoint:
    """Rebuild the trained compressor and LoRA of a checkpoint.

    Raises:
        AdapterFileError: the checkpoint is damaged, was not written by ``framefold fit``, or its weights do not fit.
        MissingExtraError: the checkpoint has LoRA, and PEFT is not installed.
    """
    try:
        saved, state = read_run_state(path), trained_weights(path)
        hyper = saved["hyper_parameters"]
        # Nothing is imported here: a class path in a checkpoint would import any module.
        name = str(hyper["compressor"])  # a class path in checkpoints of earlier versions
        known = saved.get("compressor_classes") or ({name: name} if "." in name else None)
        cls = compressor_class(imported_name(name), known)
        compressor = create_compressor(cls, hyper["budget"], cls.upgrade_params(hyper["params"]))
        compressor.load_state_dict(_part(state, "compressor."), strict=True)
        hyper |= {"steps": saved.get("global_step", 0), "seed": saved.get("seed", 0), "start": saved.get("start")}
        lora, host_fields = None, {}
        if hyper.get("lora") is not None:
            lora = check_lora(LoraAdapter(dict(saved["lora"]["config"]), _part(state, "lora."), path))
            host_fields = dict(saved["lora"]["about"])
    except (MissingExtraError, ImportError):
        raise
    except FramefoldError as error:
        text = str(error)
        raise AdapterFileError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except Exception as error:  # damaged bytes may raise anything
        text = f"{type(error).__name__}: {first_sentence(error)}"
        raise AdapterFileError(f"{path} is not a checkpoint of 'framefold fit': {text}") from error
    return TrainedCheckpoint(compressor, hyper, lora, host_fields)


def _part(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
