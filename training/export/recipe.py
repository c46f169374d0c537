"""What ``config.json`` of an exported adapter says of its training: the host, the recipe, the frames."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.adapters.pretrained.hub import HUB_ID
from framefold.errors import ConfigError, HostError
from framefold.files import weights_digest
from framefold.messages import short
from framefold.training.frozen_host.locate import find_host

NOTED = ("seed", "steps", "train_budgets", "lr", "weight_decay", "warmup", "lr_end", "losses", "start", "lora")

_TRAINER = ("strategy", "devices", "num_nodes", "precision", "accumulate_grad_batches", "gradient_clip_val")

_SYNTHETIC = ("difficulty", "style", "videos")

_READ = ("seed", "batch_size", "max_tokens")


def host_of(host: str | None, revision: str | None = None, base_model: str | None = None) -> BaseModel:
    """The host of a training, by what lies in its folder or in the cache of the Hub.

    Args:
        host: folder or id; what is not there any more is left out, with a note. revision: of an id.
        base_model: its name on the Hub, ``user/name`` or ``user/name@revision``, where the folder is a copy of that.

    Raises:
        ConfigError: no such name.
    """
    named = _named(base_model)
    if not host:
        return BaseModel(*named)
    try:
        found = find_host(host, revision)
    except HostError:
        print(f"framefold: note: {host} is not here now, so its kind and weights are not noted", file=sys.stderr)
        return BaseModel(*named) if base_model else BaseModel(_without_place(host), revision)
    from transformers import AutoConfig

    width = int(AutoConfig.from_pretrained(found.folder, local_files_only=True).get_text_config().hidden_size)
    snapshot = hub_snapshot(str(found.folder))
    name, commit = (named if base_model else snapshot) or (_without_place(host), None)
    return BaseModel(name, commit, found.kind, width, None if snapshot else weights_digest(found.folder))


def recipe_of(hyper: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """``training`` and ``frame_sampling`` of a config.

    Args:
        hyper: hyper-parameters in a checkpoint of ``framefold fit``.
        checkpoint: where it lies; the configuration of its run lies two folders above.
    """
    training = {key: hyper.get(key) for key in NOTED}
    if training["start"]:
        training["start"] = _without_place(str(training["start"]))
    run = _run_config(checkpoint.absolute().parent.parent / "config.yaml", hyper)
    data, trainer = run.get("data") or {}, run.get("trainer") or {}
    if not data:
        return {"training": training}
    if data.get("shards") is None:
        read = {"source": "synthetic", **{key: data.get(key) for key in (*_SYNTHETIC, *_READ)}}
    else:
        read = {"source": "shards", "shards": _shards(str(data["shards"])), **{key: data.get(key) for key in _READ}}
    training["data"] = {key: value for key, value in read.items() if value is not None}
    training["trainer"] = {key: value for key in _TRAINER if (value := _scalar(trainer.get(key))) is not None}
    frames = data.get("frames") if data.get("shards") is None else None
    shown = {"method": "even", "frames": frames, "most": hyper.get("host_frames")}
    return {"training": training, "frame_sampling": {key: value for key, value in shown.items() if value is not None}}


def _named(base_model: str | None) -> tuple[str | None, str | None]:
    if base_model is None:
        return None, None
    found = HUB_ID.fullmatch(base_model)
    if found is None:
        raise ConfigError(f"base_model is a name on the Hub, user/name or user/name@revision, not {short(base_model)}")
    return found["repository"], found["revision"] or "main"


def _run_config(file: Path, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """What LightningCLI saved of a run; nothing, if it is not there, damaged, or of another training."""
    try:
        config = yaml.safe_load(file.read_text())
        same = config["model"]["compressor"] == hyper["compressor"] and config["model"]["lr"] == hyper.get("lr")
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return {}
    return config if same else {}


def _without_place(path: str) -> str:
    """A folder without the part that says where on somebody's disk it lies; a relative one as it is."""
    return Path(path).name if Path(path).is_absolute() or ".." in Path(path).parts or path.startswith("~") else path


def _shards(text: str) -> str:
    """Names of shards; URLs and commands may hold keys, and are not noted."""
    return "remote" if ":" in text else _without_place(text)


def _scalar(value: Any) -> Any:
    return value.get("class_path") if isinstance(value, dict) else value
