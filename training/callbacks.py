"""What runs beside training: progress, one line on what is trained, and checkpoints that are whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import proxy

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from .checkpoint_write import save_whole


class Progress(TQDMProgressBar):
    """Progress bar with loss and accuracy, without Lightning's version number."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class Announce(Callback):
    """Says what is going to be trained, and afterwards where the checkpoint is."""

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trained, frozen = (
            sum(getattr(p, "ds_numel", p.numel()) for p in pl_module.parameters() if p.requires_grad == wanted)
            for wanted in (True, False)  # ZeRO-3 knows how many there are of what is away
        )
        hyper = pl_module.hparams
        lora = f", LoRA of rank {hyper['lora']['r']} included," if hyper["lora"] else ""
        print(
            f"fit: {hyper['compressor']} at {hyper['budget']:g}, {trained:,} trainable parameters{lora} in front of"
            f" {hyper['host']} ({frozen:,}, frozen), {trainer.estimated_stepping_batches} steps",
            flush=True,
        )

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = trainer.callback_metrics.get("val/accuracy")
        text = f", validation accuracy {float(score):.1%}" if score is not None else ""
        files = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
        print(f"fit: {trainer.global_step} steps done{text}: {', '.join(filter(None, files))}", flush=True)


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
