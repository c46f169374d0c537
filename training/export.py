"""A training checkpoint becomes an adapter folder that ``framefold.load`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters import Compressor, build, list_compressors
from ..adapters.card import LICENSE, check_license
from ..adapters.errors import AdapterFileError, ConfigError, FramefoldError, MissingExtraError
from ..adapters.folder import CONFIG, describe, load_folder, read_config
from ..adapters.hosts.lora_folder import Lora, check_lora, has_lora, read_lora
from ..adapters.hub import HUB_ID, locate
from ..adapters.hub_push import check_target
from ..adapters.registry import JOINT, get, make
from .checkpoint_content import content, weights
from .checkpoints import MANIFEST, check, is_checkpoint, newest, peek
from .options import Budget
from .publish import Made, publish
from .recipe import host_of, recipe_of


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


def export(
    checkpoint: str,
    out: str | None = None,
    push: str | None = None,
    private: bool = False,
    tag: str | None = None,
    results: str | None = None,
    license: str = LICENSE,
    base_model: str | None = None,
    budget: Budget | None = None,
    params: dict[str, Any] | None = None,
) -> Path | None:
    """Turn a checkpoint of ``framefold fit`` into an adapter: a folder, a repository on the Hub, or both.

    It holds config.json, model.safetensors, README.md (a model card; one that was written by hand is left alone) and,
    where LoRA was trained, ``lora/``, a stock PEFT folder. ``framefold.load`` and ``framefold.load_peft`` take it.

    Args:
        checkpoint: a checkpoint, or a run folder, whose last one is then taken; an adapter, as a folder or by its name
            on the Hub; or the name of a compressor that has no weights, such as st_simdiff.
        out: folder to write.
        push: user/name on the Hub, which gets one commit.
        private: with push: nobody else may see it.
        tag: with push: of the commit, such as v1.
        results: --out folder of an ablation with exactly these weights, for the card.
        license: of the adapter, as the Hub names it.
        base_model: name of the host on the Hub, user/name@revision, where it was trained in a copy of that.
        budget: that the adapter starts with; by default that of the training.
        params: of a compressor without weights.

    Returns:
        The folder, if one was written.

    Raises:
        AdapterFileError: no checkpoint there, or it was not written by ``framefold fit``.
        ConfigError: nothing to write to, or a setting that does not fit.
        ResultsError: no results of these weights.
        HubError: no permission, no connection, or a tag that exists; the folder is written even so.
        MissingExtraError: there is LoRA, and PEFT is not installed.
    """
    if out is None and push is None:
        raise ConfigError("give export a folder (--out DIR), a repository (--push user/name), or both")
    if push is None and (private or tag is not None):
        raise ConfigError("private and tag are for --push user/name")
    if push is not None:
        check_target(push, tag)
    check_license(license)
    made = _make(checkpoint, base_model, budget, params)
    return publish(made, out, push, private=private, tag=tag, results=results, license=license)


def _make(source: str, base_model: str | None, budget: Any, params: dict[str, Any] | None) -> Made:
    """What there is to export, checked; nothing is written yet."""
    path = Path(source)
    if not path.exists() and "/" not in source and (JOINT in source or source in list_compressors()):
        if get(source).trainable:
            raise ConfigError(
                f"{source} has weights that must be trained: export the run or the checkpoint of its training"
            )
        compressor = make(get(source), 0.25 if budget is None else budget, params or {})
        return Made(compressor, host_of(None, None, base_model).fields(), None, source)
    if params:
        raise ConfigError(f"params are for a compressor without weights; {source} brings its own")
    is_adapter = (path / CONFIG).is_file() or not path.exists() and HUB_ID.fullmatch(source)
    made = _of_adapter(locate(source), base_model) if is_adapter else _of_checkpoint(find_checkpoint(path), base_model)
    if budget is not None:
        made.compressor.budget = budget
    return made


def _of_checkpoint(path: Path, base_model: str | None) -> Made:
    trained = read_checkpoint(path)
    host, revision = (trained.hyper.get(key) for key in ("host", "host_revision"))
    origin = host_of(host, revision, base_model)
    known = {"host_weights": trained.about["host_weights"]} if trained.about.get("host_weights") else {}
    fields = trained.about | origin.fields() | known | recipe_of(trained.hyper, path)
    return Made(trained.compressor, fields, trained.lora, str(path))


def _of_adapter(folder: Path, base_model: str | None) -> Made:
    compressor, config = load_folder(folder), read_config(folder)
    fields = {key: value for key, value in config.items() if key not in describe(compressor)}
    lora = read_lora(folder) if has_lora(folder) else None
    return Made(compressor, fields | host_of(None, None, base_model).fields(), lora, str(folder))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint itself, or the whole one that was written last below a run folder; of any strategy.

    Raises:
        AdapterFileError: there is none, or a damaged one.
    """
    if path.exists() and is_checkpoint(path):
        problem = check(peek(path)).problem
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
        get(hyper["compressor"])  # registered names only: a class path in a checkpoint would import somebody's module
        compressor = build(hyper["compressor"], hyper["budget"], **hyper["params"])
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
