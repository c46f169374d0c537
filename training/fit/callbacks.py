"""What runs beside training: what is trained and how fast, early stops, checkpoints that are whole or not there."""

from __future__ import annotations

import time
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from framefold.errors import ConfigError
from framefold.training.checkpoint.callbacks import known_value


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


class Speed(Callback):
    """Logs ``train/step_seconds``, the mean since the values before, and ``train/tokens_per_second``.

    The tokens are the visual tokens of the videos before compression, on all ranks together. The time is that of a
    clock on the wall: waiting for data and saving checkpoints count, validation does not.
    """

    def __init__(self) -> None:
        self.begun = self.paused = 0.0  # seconds
        self.step = 0

    def _begin(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.begun, self.step, pl_module.tokens_seen = time.monotonic(), trainer.global_step, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts."""
        self._begin(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock stops."""
        self.paused = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """It goes on."""
        self.begun += time.monotonic() - self.paused

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Log, with the other values of a step: every ``trainer.log_every_n_steps``, the same on all ranks."""
        steps, every = trainer.global_step - self.step, trainer.log_every_n_steps
        if not steps or not every or trainer.global_step % every:
            return
        seconds = time.monotonic() - self.begun
        tokens = torch.tensor(float(pl_module.tokens_seen), device=pl_module.device)
        total = float(trainer.strategy.reduce(tokens, reduce_op="sum"))
        pl_module.log_dict({"train/step_seconds": seconds / steps, "train/tokens_per_second": total / seconds})
        self._begin(trainer, pl_module)


class EarlyStop(EarlyStopping):
    """Ends a fit when validation has not got better for a while; resumed runs go on counting.

    Args:
        patience: validations in a row that are no better than the best before; None: it never ends a fit.
        monitor: value of validation that decides. mode: "max" or "min". min_delta: less is not better.

    Raises:
        ConfigError: patience < 1; and before training: validation logs no such value, or there is none.
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
        self.wanted = patience
        super().__init__(monitor, min_delta, patience or 0, mode=mode, check_on_train_epoch_end=False)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Look whether what is waited for will ever be there."""
        super().setup(trainer, pl_module, stage)
        if stage == TrainerFn.FITTING and not trainer.enable_validation:
            raise ConfigError("early_stop waits for a validation, and trainer.limit_val_batches is 0")
        known_value("early_stop", self.monitor, pl_module.validated())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that had been ended, and is resumed with no more patience, ends at once."""
        if self.wait_count >= self.patience:
            self._end(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count.

        Raises:
            ConfigError: accuracy of a type of questions of which the validation videos have none.
        """
        if self._should_skip_check(trainer):
            return
        known_value("early_stop", self.monitor, [name for name in trainer.callback_metrics if name.startswith("val/")])
        before = trainer.should_stop
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and not before:
            self._end(trainer)

    @rank_zero_only
    def _say(self, text: str) -> None:
        print(text, flush=True)

    def _end(self, trainer: pl.Trainer) -> None:
        trainer.should_stop = True
        best = f"best of {self.monitor} {float(self.best_score):.4g}, {self.wait_count} validations ago"
        self._say(f"fit: early stop at step {trainer.global_step}: {best}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of this run."""
        super().load_state_dict({**state_dict, "patience": self.wanted})
