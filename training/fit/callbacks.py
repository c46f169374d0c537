"""Callbacks of a fit: summary of the run, throughput, early stopping."""

from __future__ import annotations

import time
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, Timer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from framefold.adapters.base.untrained import warn_untrained
from framefold.errors import ConfigError
from framefold.training.checkpoint.callbacks import check_monitor


class RunSummary(Callback):
    """Print what will be trained before the run, and the result and its checkpoints afterwards."""

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trained, frozen = (
            sum(getattr(p, "ds_numel", p.numel()) for p in pl_module.parameters() if p.requires_grad == trainable)
            for trainable in (True, False)  # under ZeRO-3, ds_numel is the size before sharding
        )
        hyper = pl_module.hparams
        lora = f", LoRA of rank {hyper['lora']['r']} included," if hyper["lora"] else ""
        print(
            f"fit: {hyper['compressor']} at {hyper['budget']:g}, {trained:,} trainable parameters{lora} in front of"
            f" {hyper['host']} ({frozen:,}, frozen), {trainer.estimated_stepping_batches} steps",
            flush=True,
        )

    @rank_zero_only
    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Warn if 'framefold validate' measures weights that were not trained."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            warn_untrained(pl_module.compressor)

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = trainer.callback_metrics.get("val/accuracy")
        text = f", validation accuracy {float(score):.1%}" if score is not None else ""
        files = list(filter(None, (getattr(one, "best_model_path", "") for one in trainer.checkpoint_callbacks)))
        saved = f": {', '.join(files)}" if files else "; no checkpoint was saved"
        print(f"fit: {trainer.global_step} steps done{text}{saved}{_out_of_time(trainer)}", flush=True)


def _out_of_time(trainer: Any) -> str:
    """Say how to continue a run that trainer.max_time ended; "" for all other runs."""
    left = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
    is_over = any(seconds is not None and seconds <= 0 for seconds in left)
    if not is_over or trainer.global_step >= trainer.estimated_stepping_batches:
        return ""
    return "; its time was up: --resume auto with a longer --trainer.max_time continues it"


class ThroughputLogger(Callback):
    """Log ``train/step_seconds``, the mean since the previous values, and ``train/tokens_per_second``.

    The tokens are the visual tokens of the videos before compression, summed over all ranks. The seconds are wall-clock
    time, including waiting for data and saving checkpoints, but excluding validation. Lightning's ThroughputMonitor is
    not used: it measures batches of rank 0 and assumes that all batches and ranks are alike; videos differ in length.
    """

    def __init__(self) -> None:
        self.start_time = self.pause_time = 0.0  # seconds: start of the interval, start of a validation
        self.step = 0  # steps done at the start of the interval

    def _start_interval(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.start_time, self.step, pl_module.tokens_seen = time.monotonic(), trainer.global_step, 0

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Start the first interval; runs shorter than an interval log more often, or they would log nothing."""
        steps = trainer.estimated_stepping_batches
        if steps < trainer.log_every_n_steps:
            trainer.log_every_n_steps = max(1, int(steps) // 10)
        self._start_interval(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause_time = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_time += time.monotonic() - self.pause_time

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Log every ``trainer.log_every_n_steps`` steps, together with the other values, on all ranks."""
        steps, every = trainer.global_step - self.step, trainer.log_every_n_steps
        if not steps or not every or trainer.global_step % every:
            return
        seconds = time.monotonic() - self.start_time
        tokens = torch.tensor(float(pl_module.tokens_seen), device=pl_module.device)
        total = float(trainer.strategy.reduce(tokens, reduce_op="sum"))
        pl_module.log_dict({"train/step_seconds": seconds / steps, "train/tokens_per_second": total / seconds})
        self._start_interval(trainer, pl_module)


class EarlyStop(EarlyStopping):
    """End a fit when validation has stopped improving; resumed runs continue the count.

    Args:
        patience: number of validations in a row without improvement; None: never end early.
        monitor: name of the value of validation to compare.
        mode: "max" if higher is better, "min" if lower is.
        min_delta: smallest change that counts as an improvement.

    Raises:
        ConfigError: patience is less than 1; or, before training, validation is disabled or does not log the value.
    """

    def __init__(
        self,
        patience: int | None = None,
        monitor: str = "val/accuracy",
        mode: Literal["min", "max"] = "max",
        min_delta: float = 0.0,
    ) -> None:
        if patience is not None and patience < 1:
            raise ConfigError(f"early_stop.patience must be at least 1 validation, not {patience}")
        self.configured_patience = patience
        super().__init__(monitor, min_delta, patience or 0, mode=mode, check_on_train_epoch_end=False)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Check that validation will log the monitored value."""
        super().setup(trainer, pl_module, stage)
        if stage == TrainerFn.FITTING and not trainer.enable_validation:
            raise ConfigError("early_stop waits for a validation, and trainer.limit_val_batches is 0")
        check_monitor("early_stop", self.monitor, pl_module.validation_metrics())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if the resumed run had been ended early and has no more patience."""
        if self.wait_count >= self.patience:
            self._end(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the monitored value with the best one.

        Raises:
            ConfigError: the value is the accuracy of a question type that the validation videos do not have.
        """
        if self._should_skip_check(trainer):
            return
        logged = [name for name in trainer.callback_metrics if name.startswith("val/")]
        check_monitor("early_stop", self.monitor, logged)
        before = trainer.should_stop
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and not before:
            self._end(trainer)

    def _end(self, trainer: pl.Trainer) -> None:
        trainer.should_stop = True
        best = f"best of {self.monitor} {float(self.best_score):.4g}, {self.wait_count} validations ago"
        trainer.lightning_module.print(f"fit: early stop at step {trainer.global_step}: {best}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the count, with the patience of this run."""
        super().load_state_dict({**state_dict, "patience": self.configured_patience})
