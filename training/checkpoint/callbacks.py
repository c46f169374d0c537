"""Callbacks that save checkpoints: the best one, and the latest for resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import proxy

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from framefold.errors import ConfigError

from .write import save_atomically


def check_monitor(option: str, name: str, known: list[str]) -> None:
    """Refuse to monitor a value that is not logged.

    Args:
        option: section of the command line with the option ``monitor``, for the message.
        name: the value to monitor.
        known: the values that are logged.

    Raises:
        ConfigError: the value is not logged; the message lists those that are.
    """
    if name not in known:
        raise ConfigError(f"{option}.monitor: validation logs no {name!r}; there are {', '.join(sorted(known))}")


class AtomicCheckpoint(ModelCheckpoint):
    """Base class of callbacks that write their checkpoints atomically."""

    previous_name = ""  # name under which the replaced checkpoint is kept; "": it is deleted

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        save_atomically(trainer, Path(filepath), self.previous_name, self.save_weights_only)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))


class BestCheckpoint(AtomicCheckpoint):
    """Keep the checkpoint of the best validation as ``best.ckpt``.

    Args:
        monitor: name of the logged value to compare.
        mode: "max" if higher is better, "min" if lower is.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: str = "max") -> None:
        super().__init__(
            monitor=monitor, mode=mode, filename="best", enable_version_counter=False, save_on_train_epoch_end=False
        )

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Check that validation logs the monitored value.

        Raises:
            ConfigError: validation does not log it.
        """
        if stage == TrainerFn.FITTING and trainer.enable_validation:
            check_monitor("best", str(self.monitor), pl_module.validation_metrics())
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep comparing with the best value of the resumed run, whose checkpoints are in another folder."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
        self.current_score = state_dict.get("current_score")  # so that the next checkpoint records it, too


class LastCheckpoint(AtomicCheckpoint):
    """Keep ``last.ckpt``, for resuming and for export, and the one before it as ``previous.ckpt``.

    Args:
        every: training steps between two checkpoints; the last step is always saved.
    """

    previous_name = "previous.ckpt"

    def __init__(self, every: int = 100) -> None:
        super().__init__(filename="last", every_n_train_steps=every, enable_version_counter=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not save the step that the run resumes from again, least of all between accumulated batches."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save again after validation, so that a run resumed from this step does not repeat the validation."""
        saved = self._last_checkpoint_saved and self._last_global_step_saved == trainer.global_step
        if saved and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            save_atomically(trainer, Path(self._last_checkpoint_saved))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state, unless it has been saved already."""
        fast = getattr(trainer, "fast_dev_run", False)
        if not fast and (self._last_global_step_saved != trainer.global_step or not self._last_checkpoint_saved):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        super().on_train_end(trainer, pl_module)
