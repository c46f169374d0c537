"""Fields of an exported ``config.json`` that describe the training: the host, the recipe and the frames."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.adapters.pretrained.hub import HUB_ID
from framefold.data.shards.location import is_remote, split_sources
from framefold.errors import ConfigError, HostError
from framefold.files import weights_digest
from framefold.messages import short
from framefold.training.frozen_host.locate import find_host

RECORDED = (
    *("seed", "steps", "train_budgets", "lr", "weight_decay", "warmup", "lr_end"),
    *("losses", "teacher", "start", "lora"),
)
_TRAINER = ("strategy", "devices", "num_nodes", "precision", "accumulate_grad_batches", "gradient_clip_val")
_SYNTHETIC = ("difficulty", "style", "videos")
_DATA = ("seed", "batch_size", "max_tokens")


def find_base_model(host: str | None, revision: str | None = None, base_model: str | None = None) -> BaseModel:
    """Describe the host of a training from its folder or from the cache of the Hub.

    Args:
        host: folder or id on the Hub; if it no longer exists, its kind and weights are omitted, with a note.
        revision: revision of an id.
        base_model: name of the host on the Hub, ``user/name`` or ``user/name@revision``, if the folder is a copy of it.

    Raises:
        ConfigError: base_model is not such a name.
    """
    named = _parse_hub_name(base_model)
    if not host:
        return BaseModel(*named)
    try:
        found = find_host(host, revision)
    except HostError:
        print(f"framefold: note: {host} does not exist here, so its kind and weights are not recorded", file=sys.stderr)
        return BaseModel(*named) if base_model else BaseModel(_without_location(host), revision)
    from transformers import AutoConfig

    width = int(AutoConfig.from_pretrained(found.folder, local_files_only=True).get_text_config().hidden_size)
    snapshot = hub_snapshot(str(found.folder))
    name, commit = (named if base_model else snapshot) or (_without_location(host), None)
    return BaseModel(name, commit, found.kind, width, None if snapshot else weights_digest(found.folder))


def training_recipe(hyper: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return ``training`` and ``frame_sampling`` of a config.

    Args:
        hyper: hyper-parameters in a checkpoint of ``framefold fit``.
        checkpoint: path of the checkpoint; the configuration of its run is two folders above.
    """
    training = {key: hyper.get(key) for key in RECORDED}
    if training["start"]:
        training["start"] = _without_location(str(training["start"]))
    run = _run_config(checkpoint.absolute().parent.parent / "config.yaml", hyper)
    data, trainer = run.get("data") or {}, run.get("trainer") or {}
    if not data:
        return {"training": training}
    if data.get("shards") is None:
        source = {"source": "synthetic", **{key: data.get(key) for key in (*_SYNTHETIC, *_DATA)}}
    else:
        source = {"source": "shards", "shards": _shards(str(data["shards"])), **{key: data.get(key) for key in _DATA}}
    training["data"] = {key: value for key, value in source.items() if value is not None}
    training["trainer"] = {key: value for key in _TRAINER if (value := _scalar(trainer.get(key))) is not None}
    frames = data.get("frames") if data.get("shards") is None else None
    sampling = {"method": "even", "frames": frames, "most": hyper.get("host_frames")}
    return {
        "training": training,
        "frame_sampling": {key: value for key, value in sampling.items() if value is not None},
    }


def _parse_hub_name(base_model: str | None) -> tuple[str | None, str | None]:
    if base_model is None:
        return None, None
    found = HUB_ID.fullmatch(base_model)
    if found is None:
        raise ConfigError(f"base_model is a name on the Hub, user/name or user/name@revision, not {short(base_model)}")
    return found["repository"], found["revision"] or "main"


def _run_config(file: Path, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Read the configuration that LightningCLI saved; empty if it is missing, damaged, or of another training."""
    try:
        config = yaml.safe_load(file.read_text())
        given = str(config["model"]["compressor"])
        same = "." in given or given == hyper["compressor"]  # a class path has another name than its compressor
        same = same and config["model"]["lr"] == hyper.get("lr")
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return {}
    return config if same else {}


def _without_location(path: str) -> str:
    """Return the name of a folder without its location on the disk; a relative path is returned unchanged."""
    return Path(path).name if Path(path).is_absolute() or ".." in Path(path).parts or path.startswith("~") else path


def _shards(text: str) -> str:
    """Return the names of shards, or "remote" for URLs and commands, because they may contain keys."""
    return "remote" if is_remote(text) else "::".join(_without_location(source) for source in split_sources(text))


def _scalar(value: Any) -> Any:
    return value.get("class_path") if isinstance(value, dict) else value
