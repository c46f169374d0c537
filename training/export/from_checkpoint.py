"""A training checkpoint becomes an adapter folder that ``framefold.load`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.registry import JOINT, get, list_compressors, make
from framefold.adapters.hosts.lora.config import Lora, check_lora, has_lora, read_lora
from framefold.adapters.pretrained.config import CONFIG, read_config
from framefold.adapters.pretrained.folder import describe, load_folder
from framefold.adapters.pretrained.hub import HUB_ID, locate
from framefold.errors import AdapterFileError, ConfigError, FramefoldError, MissingExtraError
from framefold.training.checkpoint.inventory import MANIFEST, is_checkpoint, newest, peek, verify
from framefold.training.checkpoint.read import content, weights

from .recipe import host_of, recipe_of
from .write import Adapter


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Attributes:
        compressor: with its trained weights.
        hyper: hyper-parameters of the training run, with its steps and seed and where it started.
        lora: LoRA that was trained with it. about: what config.json says of the host it was trained in.
    """

    compressor: Compressor
    hyper: dict[str, Any]
    lora: Lora | None
    about: dict[str, Any]


def adapter_from(source: str, base_model: str | None, budget: Any, params: dict[str, Any] | None) -> Adapter:
    """What there is to export, checked; nothing is written yet."""
    path = Path(source)
    if not path.exists() and "/" not in source and (JOINT in source or source in list_compressors()):
        if get(source).trainable:
            raise ConfigError(
                f"{source} has weights that must be trained: export the run or the checkpoint of its training"
            )
        compressor = make(get(source), 0.25 if budget is None else budget, params or {})
        return Adapter(compressor, host_of(None, None, base_model).fields(), None, source)
    if params:
        raise ConfigError(f"params are for a compressor without weights; {source} brings its own")
    is_adapter = (path / CONFIG).is_file() or not path.exists() and HUB_ID.fullmatch(source)
    made = _of_adapter(locate(source), base_model) if is_adapter else _of_checkpoint(find_checkpoint(path), base_model)
    if budget is not None:
        made.compressor.budget = budget
    return made


def _of_checkpoint(path: Path, base_model: str | None) -> Adapter:
    trained = read_checkpoint(path)
    host, revision = (trained.hyper.get(key) for key in ("host", "host_revision"))
    trained_in = host_of(host, revision, base_model)
    known = {"host_weights": trained.about["host_weights"]} if trained.about.get("host_weights") else {}
    fields = trained.about | trained_in.fields() | known | recipe_of(trained.hyper, path)
    return Adapter(trained.compressor, fields, trained.lora, str(path))


def _of_adapter(folder: Path, base_model: str | None) -> Adapter:
    compressor, config = load_folder(folder), read_config(folder)
    fields = {key: value for key, value in config.items() if key not in describe(compressor)}
    lora = read_lora(folder) if has_lora(folder) else None
    return Adapter(compressor, fields | host_of(None, None, base_model).fields(), lora, str(folder))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint itself, or the whole one that was written last below a run folder; of any strategy.

    Raises:
        AdapterFileError: there is none, or a damaged one.
    """
    if path.exists() and is_checkpoint(path):
        problem = verify(peek(path)).problem
        if problem and (path.is_file() or (path / MANIFEST).exists()):  # Lightning's own folders have no manifest
            raise AdapterFileError(problem if problem.startswith(str(path)) else f"{path} is damaged: {problem}")
        return path
    found = newest(path, by_time=True)
    if found is None:
        raise AdapterFileError(f"no checkpoint at {path}: give a .ckpt file or the folder of a 'framefold fit' run")
    return found.path


def read_checkpoint(path: Path) -> Trained:
    """Rebuild what a checkpoint holds.

    Raises:
        AdapterFileError: damaged, of another program, or weights that do not fit.
        MissingExtraError: there is LoRA, and PEFT is not installed.
    """
    try:
        saved, state = content(path), weights(path)
        hyper = saved["hyper_parameters"]
        # Registered names only: a class path in a checkpoint would import any module.
        compressor = make(
            get(hyper["compressor"]), hyper["budget"], get(hyper["compressor"]).upgrade_params(hyper["params"])
        )
        compressor.load_state_dict(_part(state, "compressor."), strict=True)
        hyper |= {"steps": saved.get("global_step", 0), "seed": saved.get("seed", 0), "start": saved.get("start")}
        lora, about = None, {}
        if hyper.get("lora") is not None:
            lora = check_lora(Lora(dict(saved["lora"]["config"]), _part(state, "lora."), path))
            about = dict(saved["lora"]["about"])
    except (MissingExtraError, ImportError):
        raise
    except FramefoldError as error:
        text = str(error)
        raise AdapterFileError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except Exception as error:  # torch.load raises whatever the damaged bytes lead to
        text = " ".join(str(error).split()).partition(". ")[0][:300]  # torch goes on about how to switch its guard off
        raise AdapterFileError(f"{path} is no checkpoint of 'framefold fit': {type(error).__name__}: {text}") from error
    return Trained(compressor, hyper, lora, about)


def _part(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
