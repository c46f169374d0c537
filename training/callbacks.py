"""What runs beside training: progress, one line on what is trained, and checkpoints that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.utilities.rank_zero import rank_zero_only


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
            sum(p.numel() for p in pl_module.parameters() if p.requires_grad == wanted) for wanted in (True, False)
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


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the checkpoint of the best validation.

    Args:
        monitor: logged value that decides. mode: "max" or "min".
    """

    def __init__(self, monitor: str = "val/accuracy", mode: str = "max") -> None:
        super().__init__(
            monitor=monitor, mode=mode, filename="best", enable_version_counter=False, save_on_train_epoch_end=False
        )


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, for going on after an interruption and for export.

    Args:
        every: training steps between two of them; there is always one at the end.
    """

    def __init__(self, every: int = 100) -> None:
        super().__init__(filename="last", every_n_train_steps=every, enable_version_counter=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state, unless it was saved just now."""
        if not getattr(trainer, "fast_dev_run", False) and self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        super().on_train_end(trainer, pl_module)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a kill or a full disk leaves the previous one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one file.

        Raises:
            OSError: the disk is full or not writable.
        """
        place = Path(path)
        beside = place.with_name(f".{place.name}.part")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, place)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(place)) from error
        except RuntimeError as error:  # torch's zip writer does not say why a write failed
            raise OSError(f"cannot write {place}, is the disk full? ({error})") from error
        finally:
            beside.unlink(missing_ok=True)
