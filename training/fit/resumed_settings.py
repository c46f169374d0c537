"""The settings of a run that resumes: what its command changes takes effect, or is refused by name.

A checkpoint records the settings of its run. The model keeps those that the new command does not give; data and trainer
have exactly those of the new command. Every difference is printed, because the order of the data or the schedule of the
learning rate may depend on it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from framefold.errors import ConfigError
from framefold.messages import short
from framefold.training.checkpoint.read import read_run_state
from framefold.training.checkpoint.resume import Resume

# Settings of the trainer that determine what is trained; the others only concern speed, files and messages.
TRAINER = (
    *("max_steps", "max_epochs", "precision", "strategy", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "limit_train_batches", "limit_val_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch"),
)
NOT_RECORDED = ("workers", "timeout")  # settings of the data that change no batch
SOURCES = ("shards", "val_shards", "index", "val_index")  # URLs and commands among them may contain keys
WEIGHTS = ("start", "init_from_host")  # settings of the model that only determine initial weights


@dataclass(frozen=True)
class Change:
    """A setting that differs from that of the run that is resumed."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key} {short(self.before)} -> {short(self.after)}"


def recorded_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of data and trainer that a checkpoint records, as JSON values.

    Args:
        config: complete configuration of a run.
    """
    data = {key: value for key, value in config["data"].items() if key not in NOT_RECORDED}
    for key in SOURCES:
        if ":" in str(data.get(key) or ""):
            data[key] = f"remote ({zlib.crc32(str(data[key]).encode()):08x})"
    trainer = {key: config["trainer"].get(key) for key in TRAINER}
    settings = {"data": data, "trainer": trainer, "seed_everything": config.get("seed_everything")}
    return json.loads(json.dumps(settings, default=str))


def list_changes(checkpoint: Path, given: Mapping[str, Any], config: Mapping[str, Any]) -> list[Change]:
    """Compare a command with the run that it resumes.

    Args:
        checkpoint: which is resumed.
        given: settings of the model that the command gives.
        config: complete configuration of the command.
    """
    state = read_run_state(checkpoint)
    hyper = {**state["hyper_parameters"], "start": state.get("start")}
    before, after = _recorded(state, checkpoint), recorded_settings(config)
    return [
        *_differences({key: given[key] for key in given.keys() & hyper.keys() - {"compressor"}}, hyper, "model."),
        *_differences({key: value for key, value in after.items() if key in before}, before, ""),
    ]


def check_changes(checkpoint: Path, changes: list[Change], trainer: Mapping[str, Any]) -> None:
    """Refuse changes that cannot take effect.

    Args:
        checkpoint: which is resumed.
        changes: see :func:`list_changes`.
        trainer: settings of the trainer.

    Raises:
        ConfigError: a changed setting only determines initial weights; or nothing is left to train.
    """
    for change in changes:
        if change.key.removeprefix("model.") in WEIGHTS and change.after is not None:
            raise ConfigError(
                f"{change.key} is {short(change.before)} in {checkpoint}, and {short(change.after)} cannot take effect:"
                f" a resumed run has the weights of its checkpoint. Drop {change.key}, or start a new run with another "
                "--trainer.default_root_dir and without --resume"
            )
    if trainer["fast_dev_run"]:
        raise ConfigError(
            "trainer.fast_dev_run tries a few batches of a new run and saves nothing: drop it, or drop --resume"
        )
    _check_length(checkpoint, [change for change in changes if not change.key.startswith("trainer.")], trainer)


def _check_length(checkpoint: Path, changes: list[Change], trainer: Mapping[str, Any]) -> None:
    state = read_run_state(checkpoint)
    progress = state.get("loops", {}).get("fit_loop", {})
    step, epochs = state["global_step"], progress.get("epoch_progress", {}).get("current", {})
    batch = progress.get("epoch_loop.batch_progress", {})
    finished = epochs.get("ready", 0) - (not batch.get("is_last_batch", False))
    for key, done, limit in (
        ("max_steps", step, trainer["max_steps"]),
        ("max_epochs", finished, trainer["max_epochs"]),
    ):
        if limit is None or limit < 0 or done < limit:
            continue
        what = f"{checkpoint} has {done} {key.removeprefix('max_')}, trainer.{key} is {limit}"
        if done > limit:
            raise ConfigError(f"{what}: nothing is left to train; raise trainer.{key}, or drop --resume")
        if changes:
            names = ", ".join(change.key for change in changes)
            raise ConfigError(f"{what}: the run is finished, and {names} would train nothing; raise trainer.{key}")


def _recorded(state: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return the recorded settings; for a checkpoint without them, those of the configuration in its run folder."""
    found = (state.get("callbacks") or {}).get(Resume.__qualname__)
    if isinstance(found, dict) and found.get("settings"):
        return dict(found["settings"])
    try:
        return recorded_settings(yaml.safe_load((checkpoint.parent.parent / "config.yaml").read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return {}


def _differences(given: Mapping[str, Any], own: Mapping[str, Any], prefix: str) -> Iterator[Change]:
    for key, value in given.items():
        before = own.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(value, before, f"{prefix}{key}.")
        elif _plain(value) != _plain(before):
            yield Change(prefix + key, before, value)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
