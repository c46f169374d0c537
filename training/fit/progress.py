"""Progress of a run: Lightning's bar on a terminal, otherwise occasional lines.

Both show the steps of the whole run, the loss, the latest validation accuracy and the remaining time.
"""

from __future__ import annotations

import math
import os
import sys
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.trainer.states import TrainerFn

from framefold.progress import LINE_INTERVAL
from framefold.training.optimizer import total_steps


def progress_display(label: str = "fit") -> ProgressBar:
    """Return a bar if standard output is a terminal, otherwise lines that begin with a label."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return StepProgressBar() if is_terminal else ProgressLines(label)


def _known_steps(trainer: pl.Trainer) -> int | None:
    """Return the number of optimizer steps of the whole run, or None if it has no end."""
    steps = total_steps(trainer)
    return int(steps) if math.isfinite(steps) else None


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar, counting the optimizer steps of the whole run instead of the batches of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        Tqdm.monitor_interval = 0  # no monitor thread: forked loader workers must not inherit its locks

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.set_description("step", refresh=False)
        bar.total, bar.unit, bar.n = _known_steps(self.trainer), "step", self.trainer.global_step
        bar.initial = bar.n  # steps of the resumed run, which do not count for the remaining time
        bar.refresh()
        return bar

    def on_train_epoch_start(self, *args: Any) -> None:
        """Keep the bar, which Lightning resets in every epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        bar = self.train_progress_bar
        if not bar.disable and trainer.global_step > bar.n:  # with accumulated gradients, not every batch is a step
            bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
            bar.update(trainer.global_step - bar.n)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the values that are logged with ``prog_bar``, without Lightning's version number."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def on_exception(self, *args: Any) -> None:
        """Close the bars, so that the error message starts on a line of its own."""
        for bar in (self._val_progress_bar, self._train_progress_bar):
            if bar is not None:
                bar.close()


class ProgressLines(ProgressBar):
    """A line after the first step, then every half minute, after each validation and at the end.

    Lightning's bars are not used here: they redraw one line with carriage returns, which a log keeps all of, and count
    the batches of an epoch.
    """

    def __init__(self, label: str = "fit") -> None:
        super().__init__()
        self.label, self.is_enabled = label, True
        self.start_time = self.line_time = 0.0  # seconds: start of training, latest line
        self.validation_time = 0.0  # seconds: start of the validation
        self.first_step = self.step = 0  # steps done at the start of training, and at the latest line

    def disable(self) -> None:
        """Print nothing (ranks other than 0)."""
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def _print(self, text: str) -> None:
        self.line_time = time.monotonic()
        if self.is_enabled:
            print(text, flush=True)

    def _metrics(self) -> str:
        return ", ".join(f"{name} {float(value):.4g}" for name, value in self.trainer.progress_bar_metrics.items())

    def _print_step(self) -> None:
        step, total = self.trainer.global_step, _known_steps(self.trainer)
        seconds = (time.monotonic() - self.start_time) / max(1, step - self.first_step)
        left = f", {timedelta(seconds=round(seconds * (total - step)))} left" if total else ""
        self.step = step
        self._print(f"{self.label}: step {step}/{total or '?'}, {self._metrics()}, {seconds:.3g} s a step{left}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start_time, self.first_step, self.step = time.monotonic(), trainer.global_step, trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Print a line after the first and the last step, and if the latest one is half a minute old."""
        step = trainer.global_step
        is_end = step == self.first_step + 1 or step == _known_steps(trainer)
        if step > self.step and (is_end or time.monotonic() - self.line_time >= LINE_INTERVAL):
            self._print_step()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validation_time = time.monotonic()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Print a line if the latest one is half a minute old."""
        now, done = time.monotonic(), batch_idx + 1
        if now - self.line_time >= LINE_INTERVAL:
            batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
            total, seconds = sum(batches), (now - self.validation_time) / done
            left = f", {timedelta(seconds=round(seconds * (total - done)))} left" if total != float("inf") else ""
            of = f"{total}" if total != float("inf") else "?"
            self._print(f"{trainer.state.fn}: validation, batch {done}/{of}, {seconds:.3g} s a batch{left}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the result; 'framefold validate' prints a table instead."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._print(f"fit: validated at step {trainer.global_step}: {self._metrics()}")
