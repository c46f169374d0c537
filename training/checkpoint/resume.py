"""``framefold fit --resume``: the newest whole checkpoint, the same on every rank, and only one that fits the run.

Ranks that another started take its choice. Ranks that start by themselves (torchrun, SLURM, mpirun) choose each on its
own, out of files that do not change before all of them have met; then they compare, and rank 0's choice is taken.
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

from framefold.errors import CheckpointError, ConfigError

from .inventory import Checkpoint, is_checkpoint, newest, peek, verify
from .read import content, escaped_path, only_parts, only_tensors, weights
from .strategy_name import strategy_name
from .universal import group_by_group
from .write import together

AUTO, CHOICE = "auto", "FRAMEFOLD_RESUME"


def whole(path: Path) -> Checkpoint:
    """A checkpoint that was named.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    if not path.exists():
        raise CheckpointError(f"no checkpoint {path}")
    if (found := verify(peek(path))).problem:
        raise CheckpointError(f"cannot go on from {path}: {found.problem}")
    return found


def choose_checkpoint(wanted: str, root: Path) -> Path | None:
    """The checkpoint that ``--resume`` means; None to start anew.

    Args:
        wanted: "auto", a checkpoint, or a folder of runs. root: where auto looks.

    Raises:
        CheckpointError: a path was given, and there is no whole checkpoint.
    """
    parent, _, chosen = os.environ.get(CHOICE, "").partition(":")
    if parent == str(os.getppid()):  # the rank that started this one has chosen
        return Path(chosen) if chosen else None
    path = root if wanted == AUTO else Path(wanted)
    found = whole(path) if wanted != AUTO and is_checkpoint(path) else newest(path, warn=rank_zero_warn)
    if found is None and wanted != AUTO:
        raise CheckpointError(f"cannot go on from {path}: there is no whole checkpoint")
    os.environ[CHOICE] = f"{os.getpid()}:{found.path if found else ''}"
    _say(f"resume: from {found.path}, step {found.step}" if found else f"resume: nothing in {path} yet, starting anew")
    return found.path if found else None


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)


def same_run(path: Path, model: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of something else than is asked for.

    Args:
        model: settings of the configuration.

    Raises:
        ConfigError: of another compressor, or with LoRA where there is to be none, or the other way round.
    """
    saved = content(path)["hyper_parameters"]
    if saved.get("compressor") != model["compressor"]:
        raise ConfigError(
            f"{path} is of {saved.get('compressor')}, this run trains {model['compressor']}: give another "
            "--trainer.default_root_dir, or --config of the compressor that it is to go on with"
        )
    if model["lora"] is not None and saved.get("lora") is None:
        raise ConfigError(f"{path} has no LoRA, this run trains one: start from its adapter, see --model.start")


class Resume(Callback):
    """Brings the ranks together on what they go on from, before any of it is loaded.

    Args:
        path: what this rank has chosen; None: it starts anew.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare, and have the strategy look at what it is asked to load.

        Raises:
            CheckpointError: ranks have chosen differently, or the checkpoint is not one that this strategy can load.
        """
        own = (str(self.path), _digest(self.path)) if self.path else ("", 0)
        choices = together(lambda: own, self.path or Path(trainer.default_root_dir))
        if len({digest for _, digest in choices}) > 1:
            raise CheckpointError(
                f"the ranks have found different checkpoints, {sorted({path or 'none' for path, _ in choices})}: "
                "is another job still writing there? Name one with --resume PATH"
            )
        strategy: Any = trainer.strategy
        self.path = Path(choices[0][0]) if choices[0][0] else None
        if isinstance(strategy, DeepSpeedStrategy) and self.path and peek(self.path).kind == "universal":
            config: Any = strategy.config
            config["checkpoint"] = {"load_universal": True}  # before the engine is made
        strategy.load_checkpoint = functools.partial(_load, trainer, self.path, strategy.load_checkpoint)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on in the data and in the count of epochs, where Lightning does not.

        Under max_epochs it makes the loader before it has read the position, which it then forgets; and if a checkpoint
        is of the end of an epoch, it takes the next epoch for the rest of that one: it is never counted as begun, and
        what is saved in it looks as if an epoch had just ended.
        """
        loop = trainer.fit_loop
        count: Any = loop.epoch_progress.current
        if loop.restarted_mid_epoch and count.processed == count.started:
            loop.reset_restart_stage()
        states, loader, fetcher = loop._combined_loader_states_to_load, loop._combined_loader, loop._data_fetcher
        if states and loader is not None and fetcher is not None:
            loader._load_state_dicts(states)
            loop._combined_loader_states_to_load = []
            iter(fetcher)  # from there


def _digest(path: Path) -> int:
    """Of the settings that a rank has read from its choice: they must be the same everywhere."""
    return zlib.crc32(json.dumps(content(path)["hyper_parameters"], sort_keys=True, default=str).encode()) or 1


def _load(trainer: pl.Trainer, agreed: Path | None, load: Any, path: Any, weights_only: bool | None = None) -> Any:
    """In place of the strategy's own: the checkpoint that was agreed on, if it fits."""
    place = agreed or Path(path)
    if trainer.state.fn != "fit" and not isinstance(trainer.strategy, (DeepSpeedStrategy, ModelParallelStrategy)):
        return content(place) | {"state_dict": weights(place)} if place.is_dir() else load(place)
    fits(place, trainer)
    if not isinstance(trainer.strategy, DeepSpeedStrategy):
        with only_parts(place) if place.is_dir() else nullcontext():
            return load(place)
    own = peek(place).kind == "universal" and trainer.optimizers
    try:
        with (
            only_tensors(),
            escaped_path(place) as link,
            group_by_group(trainer.optimizers[0]) if own else nullcontext(),
        ):
            found = load(link)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{place} is damaged, or holds more than tensors, numbers and text") from error
    if own:
        for group, lr in zip(trainer.optimizers[0].param_groups, found["lr_schedulers"][0]["_last_lr"], strict=True):
            group["lr"] = lr
    return found


def fits(path: Path, trainer: pl.Trainer) -> None:
    """Refuse a checkpoint that this strategy would choke on.

    Raises:
        CheckpointError: of another strategy, or of another number of ranks; it says how to convert it.
    """
    found = peek(path)
    if found.problem:
        raise CheckpointError(f"cannot go on from {path}: {found.problem}")
    wanted = {"deepspeed", "universal"} if isinstance(trainer.strategy, DeepSpeedStrategy) else {"file"}
    if isinstance(trainer.strategy, ModelParallelStrategy):
        wanted = {"file", "fsdp2"}
    ours, theirs, quoted = strategy_name(trainer.strategy), found.strategy, shlex.quote(str(path))
    if found.kind not in wanted:
        back = theirs if theirs.startswith(("ddp", "deepspeed", "fsdp2")) else "auto"
        raise CheckpointError(
            f"{path} was written by {theirs or 'another strategy'}, this run is of {ours}: go on with "
            f"--trainer.strategy {back}, or begin anew from its weights with --model.start DIR after "
            f"'framefold export {quoted} --out DIR'"
        )
    if found.kind != "deepspeed":
        return
    by = f"{found.world_size} ranks" if found.world_size != 1 else "1 rank"
    if found.world_size != trainer.world_size or theirs.endswith("3") != ours.endswith("3"):
        raise CheckpointError(
            f"{path} was written by {by} with {theirs}, this run has {trainer.world_size} with {ours}: go on with "
            f"--resume DIR after 'framefold checkpoint universal {quoted} --out DIR', which fits any number of them"
        )
