"""Callbacks of a fit: summary of the run, throughput, early stopping."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, Timer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from framefold.adapters.base.untrained import warn_untrained
from framefold.errors import ConfigError
from framefold.training.checkpoint.callbacks import check_monitor
from framefold.training.optimizer import total_steps


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
            f" {hyper['host']} ({frozen:,}, frozen), {total_steps(trainer):.0f} steps{_data(trainer)}",
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
        metrics = _metrics(trainer)
        saved = f": {', '.join(files)}{metrics}" if files else f"{metrics}; no checkpoint was saved"
        print(f"fit: {trainer.global_step} steps done{text}{saved}{_out_of_time(trainer)}", flush=True)


def _data(trainer: Any) -> str:
    """Say what is trained and validated on; "" for other data modules."""
    description = getattr(trainer.datamodule, "description", "")
    return f", {description}" if description else ""


def _metrics(trainer: Any) -> str:
    """Name the table of metrics and the command that draws it; "" if the run has none."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.save()  # the rows since the latest flush, and the file itself in runs shorter than that
            file = Path(logger.experiment.metrics_file_path)
            if file.is_file():
                return f"; metrics in {file}: draw them with framefold curves {shlex.quote(str(file.parent))}"
    return ""


def _out_of_time(trainer: Any) -> str:
    """Say how to continue a run that trainer.max_time ended; "" for all other runs."""
    left = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
    is_over = any(seconds is not None and seconds <= 0 for seconds in left)
    if not is_over or trainer.global_step >= total_steps(trainer):
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
        steps = total_steps(trainer)
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


class FiniteWeights(Callback):
    """End a run whose weights are no longer finite, before a checkpoint of them replaces an earlier one."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Look at the trained weights of this rank after each step.

        Raises:
            ConfigError: some are NaN or infinite.
        """
        if trainer.fit_loop._should_accumulate():
            return
        weights = [getattr(p, "_local_tensor", p).detach() for p in pl_module.parameters() if p.requires_grad]
        finite = [weight.isfinite().all() for weight in weights if weight.numel()]
        if not finite or bool(torch.stack(finite).all()):
            return
        raise ConfigError(
            f"the weights became NaN or infinite in step {trainer.global_step} (model.lr {pl_module.hparams['lr']:g}, "
            f"trainer.precision {trainer.precision}): lower model.lr, set trainer.gradient_clip_val, or train with "
            "trainer.precision 32-true or bf16-mixed; earlier checkpoints are unchanged"
        )


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
            raise ConfigError(
                "early_stop waits for a validation, and there is none: trainer.limit_val_batches is 0, or "
                "data.val_share and data.val_shards are missing"
            )
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
