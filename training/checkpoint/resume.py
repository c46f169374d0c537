"""``framefold fit --resume``: find the latest complete checkpoint and load the same one on every rank.

Ranks that another rank started use its choice. Ranks that an external launcher started (torchrun, SLURM, mpirun) choose
independently, from files that do not change before all ranks have met. They then compare their choices, and all of them
use that of rank 0.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import shlex
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DeepSpeedStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch.optim.lr_scheduler import LambdaLR

from framefold.errors import CheckpointError, ConfigError

from .class_paths import check_class_paths, check_config_file
from .inventory import Checkpoint, is_checkpoint, latest_checkpoint, read_header, verify_checkpoint
from .read import glob_safe_path, read_run_state, safe_deepspeed_load, safe_fsdp2_load, trained_weights
from .strategy_name import strategy_name
from .universal import separate_parameter_groups
from .write import run_on_all_ranks

AUTO, CHOICE_VARIABLE = "auto", "FRAMEFOLD_RESUME"  # environment variable with the choice of the parent process


def require_complete(path: Path) -> Checkpoint:
    """Return the description of a checkpoint that the user named.

    Raises:
        CheckpointError: the checkpoint does not exist or is damaged.
    """
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}")
    if (found := verify_checkpoint(read_header(path))).problem:
        raise CheckpointError(f"cannot resume from {path}: {found.problem}")
    return found


def resolve_resume(resume: str, root: Path) -> Path | None:
    """Return the checkpoint that ``--resume`` refers to; None to start a new run.

    Args:
        resume: "auto", a checkpoint, or a folder of runs.
        root: folder that "auto" searches.

    Raises:
        CheckpointError: a path was given, and there is no complete checkpoint.
    """
    parent, _, chosen = os.environ.get(CHOICE_VARIABLE, "").partition(":")
    if parent == str(os.getppid()):  # the rank that started this one has chosen
        return Path(chosen) if chosen else None
    path = root if resume == AUTO else Path(resume)
    if resume != AUTO and is_checkpoint(path):
        found: Checkpoint | None = require_complete(path)
    else:
        found = latest_checkpoint(path, warn=rank_zero_warn)
    if found is None and resume != AUTO:
        raise CheckpointError(f"cannot resume from {path}: it has no complete checkpoint")
    os.environ[CHOICE_VARIABLE] = f"{os.getpid()}:{found.path if found else ''}"
    if found is None:
        rank_zero_print(f"resume: no checkpoint in {path} yet, starting a new run")
        return None
    rank_zero_print(f"resume: from {found.path}, step {found.step}")
    return found.path


@rank_zero_only
def rank_zero_print(text: str) -> None:
    """Print a line on rank 0."""
    print(text, flush=True)


def check_same_run(path: Path, model: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint that does not belong to the configured model.

    Args:
        path: the checkpoint.
        model: the configuration of the model.
        name: registered name of the configured compressor, which may be given as a class path.

    Raises:
        ConfigError: the checkpoint has another compressor, lacks the configured LoRA, or belongs to a run that was
            started by a version of framefold with another layout.
    """
    saved = read_run_state(path)["hyper_parameters"]
    check_class_paths(saved, path)
    check_config_file(path.parent.parent / "config.yaml")
    if saved.get("compressor") not in (name, model["compressor"]):
        raise ConfigError(
            f"{path} contains {saved.get('compressor')}, this run trains {name}: choose another "
            "--trainer.default_root_dir, or pass --config of the compressor to resume"
        )
    if model["lora"] is not None and saved.get("lora") is None:
        raise ConfigError(f"{path} has no LoRA, this run trains one: start from its adapter, see --model.start")


class Resume(Callback):
    """Make all ranks resume from the same checkpoint, before any of it is loaded.

    Args:
        path: the choice of this rank; None: it starts a new run.
        settings: of data and trainer, which checkpoints record.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any] | None = None) -> None:
        self.path, self.settings = path, settings or {}
        self.groups: list[dict[str, float]] = []  # of the optimizer, as this run configures them

    def state_dict(self) -> dict[str, Any]:
        """Return the settings, with which the next run that resumes compares its own."""
        return {"settings": self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the settings of this run."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare the choices, and make the strategy check a checkpoint before it loads it.

        Raises:
            CheckpointError: the ranks have chosen different checkpoints, or the strategy cannot load the checkpoint.
        """
        choice = (str(self.path), _digest(self.path)) if self.path else ("", 0)
        choices = run_on_all_ranks(lambda: choice, self.path or Path(trainer.default_root_dir))
        if len({digest for _, digest in choices}) > 1:
            raise CheckpointError(
                f"the ranks have found different checkpoints, {sorted({path or 'none' for path, _ in choices})}: "
                "is another job still writing there? Choose one with --resume PATH"
            )
        strategy: Any = trainer.strategy
        self.path = Path(choices[0][0]) if choices[0][0] else None
        if isinstance(strategy, DeepSpeedStrategy) and self.path and read_header(self.path).kind == "universal":
            config: Any = strategy.config
            config["checkpoint"] = {"load_universal": True}  # read when the engine is created
        strategy.load_checkpoint = functools.partial(_load, trainer, self.path, strategy.load_checkpoint)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the learning rates and weight decays of this run, which loading replaces by those of the checkpoint."""
        for config in trainer.lr_scheduler_configs:
            groups = config.scheduler.optimizer.param_groups
            self.groups = [{key: group[key] for key in ("initial_lr", "weight_decay")} for group in groups]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the optimizer the settings of this run, at the place in its schedule that the checkpoint has reached."""
        for config in trainer.lr_scheduler_configs if self.path else ():
            schedule: Any = config.scheduler
            if not isinstance(schedule, LambdaLR):
                continue
            schedule.base_lrs = [group["initial_lr"] for group in self.groups]
            factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            schedule._last_lr = [lr * factor for lr, factor in zip(schedule.base_lrs, factors, strict=True)]
            for group, own, lr in zip(schedule.optimizer.param_groups, self.groups, schedule._last_lr, strict=True):
                group.update(own, lr=lr)


def _digest(path: Path) -> int:
    """Return a digest of the hyper-parameters in a checkpoint, which must be the same on all ranks."""
    return zlib.crc32(json.dumps(read_run_state(path)["hyper_parameters"], sort_keys=True, default=str).encode()) or 1


def _load(trainer: pl.Trainer, agreed: Path | None, load: Any, path: Any, weights_only: bool | None = None) -> Any:
    """Replace the strategy's ``load_checkpoint``: check the checkpoint that was agreed on, then load it."""
    place = agreed or Path(path)
    if trainer.state.fn != "fit" and not isinstance(trainer.strategy, (DeepSpeedStrategy, ModelParallelStrategy)):
        return read_run_state(place) | {"state_dict": trained_weights(place)} if place.is_dir() else load(place)
    check_compatible(place, trainer)
    if not isinstance(trainer.strategy, DeepSpeedStrategy):
        with safe_fsdp2_load(place) if place.is_dir() else nullcontext():
            return load(place)
    is_universal = read_header(place).kind == "universal" and trainer.optimizers
    try:
        with (
            safe_deepspeed_load(),
            glob_safe_path(place) as link,
            separate_parameter_groups(trainer.optimizers[0]) if is_universal else nullcontext(),
        ):
            found = load(link)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{place} is damaged, or contains more than tensors, numbers and text") from error
    if is_universal:
        for group, lr in zip(trainer.optimizers[0].param_groups, found["lr_schedulers"][0]["_last_lr"], strict=True):
            group["lr"] = lr
    return found


def check_compatible(path: Path, trainer: pl.Trainer) -> None:
    """Refuse a checkpoint that the strategy cannot load.

    Raises:
        CheckpointError: another strategy or another number of ranks wrote the checkpoint; the message says how to
            convert it.
    """
    found = read_header(path)
    if found.problem:
        raise CheckpointError(f"cannot resume from {path}: {found.problem}")
    loadable = {"deepspeed", "universal"} if isinstance(trainer.strategy, DeepSpeedStrategy) else {"file"}
    if isinstance(trainer.strategy, ModelParallelStrategy):
        loadable = {"file", "fsdp2"}
    ours, theirs, quoted = strategy_name(trainer.strategy), found.strategy, shlex.quote(str(path))
    if found.kind not in loadable:
        option = theirs if theirs.startswith(("ddp", "deepspeed", "fsdp2")) else "auto"
        raise CheckpointError(
            f"{path} was written by {theirs or 'another strategy'}, this run uses {ours}: resume with "
            f"--trainer.strategy {option}, or start a new run from its weights with --model.start DIR after "
            f"'framefold export {quoted} --out DIR'"
        )
    if found.kind != "deepspeed":
        return
    ranks = f"{found.world_size} ranks" if found.world_size != 1 else "1 rank"
    if found.world_size != trainer.world_size or theirs.endswith("3") != ours.endswith("3"):
        raise CheckpointError(
            f"{path} was written by {ranks} with {theirs}, this run has {trainer.world_size} with {ours}: resume with "
            f"--resume DIR after 'framefold checkpoint universal {quoted} --out DIR', which fits any number of ranks"
        )
