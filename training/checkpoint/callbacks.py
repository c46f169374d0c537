"""Refuse to watch a value that is not logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import proxy

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from framefold.errors import ConfigError

from .write import save_whole


def known_value(option: str, name: str, known: list[str]) -> None:
    """Refuse to watch a value that is not logged.

    Raises:
        ConfigError: it names the values that are.
    """
    if name not in known:
        raise ConfigError(f"{option}.monitor: validation logs no {name!r}; there are {', '.join(sorted(known))}")


class WholeCheckpoint(ModelCheckpoint):
    """Writes checkpoints that are whole or not there."""

    before = ""  # name that the one before is kept under

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        save_whole(trainer, Path(filepath), self.before, self.save_weights_only)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))


class BestCheckpoint(WholeCheckpoint):
    """Keeps ``best.ckpt``, the checkpoint of the best validation.

    Args:
        monitor: logged value that decides. mode: "max" or "min".
    """

    def __init__(self, monitor: str = "val/accuracy", mode: str = "max") -> None:
        super().__init__(
            monitor=monitor, mode=mode, filename="best", enable_version_counter=False, save_on_train_epoch_end=False
        )

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Look whether validation logs that value.

        Raises:
            ConfigError: it does not.
        """
        if stage == TrainerFn.FITTING and trainer.enable_validation:
            known_value("best", str(self.monitor), pl_module.validated())
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best of the run before, though it lies in another folder."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


class LastCheckpoint(WholeCheckpoint):
    """Keeps ``last.ckpt``, for going on after an interruption and for export, and the one before, ``previous.ckpt``.

    Args:
        every: training steps between two of them; there is always one at the end.
    """

    before = "previous.ckpt"

    def __init__(self, every: int = 100) -> None:
        super().__init__(filename="last", every_n_train_steps=every, enable_version_counter=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What the run goes on from need not be saved again, least of all in the middle of accumulated batches."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was saved just before validation gets its result: a run that goes on does not repeat it."""
        saved = self._last_checkpoint_saved and self._last_global_step_saved == trainer.global_step
        if saved and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            save_whole(trainer, Path(self._last_checkpoint_saved))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state, unless it was saved just now."""
        fast = getattr(trainer, "fast_dev_run", False)
        if not fast and (self._last_global_step_saved != trainer.global_step or not self._last_checkpoint_saved):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        super().on_train_end(trainer, pl_module)
