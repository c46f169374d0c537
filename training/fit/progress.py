"""How far a run is: a bar on a terminal, and in a log now and then a line.

Both show the step of the whole run, the loss, the last validation accuracy and the time left.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

HOUR = 3600.0

REFRESH = 0.1  # seconds between two pictures of a bar

EVERY = 60.0  # seconds between two lines


def progress_display() -> ProgressBar:
    """A bar if people are looking, lines if not."""
    return Bar() if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" else Lines()


class ProgressDisplay(ProgressBar):
    """What bar and lines have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def disable(self) -> None:
        """Show nothing (ranks other than 0)."""
        self.enabled = False

    def enable(self) -> None:
        """Show again."""
        self.enabled = True

    @property
    def steps(self) -> int | None:
        """Steps of the whole run, where that is known."""
        total = self.trainer.estimated_stepping_batches
        return int(total) if total != float("inf") else None

    def metrics(self) -> str:
        """The values that are logged with prog_bar."""
        return ", ".join(f"{name} {float(value):.4g}" for name, value in self.trainer.progress_bar_metrics.items())

    def validations(self) -> int | None:
        """Batches of a validation."""
        trainer = self.trainer
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        total = sum(batches)
        return int(total) if total != float("inf") else None


class Bar(ProgressDisplay):
    """A bar for the run, and one below it while it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: Progress | None = None
        self.fit: TaskID | None = None
        self.validation: TaskID | None = None
        self.drawn = 0.0

    def _open(self) -> Progress:
        if self.bars is None:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            left = TextColumn("left"), TimeLeft(elapsed_when_finished=False), TextColumn("{task.fields[metrics]}")
            # A console of its own: rich's shared one remembers what stdout was when somebody first asked for it. Drawn
            # from this thread: loader workers are forked, and must not inherit the lock of another one.
            self.bars = Progress(*columns, *left, console=Console(), auto_refresh=False, speed_estimate_period=HOUR)
            self.bars.start()
        return self.bars

    def _close(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = self.fit = self.validation = None

    def _show(self, task: TaskID | None, done: int) -> None:
        if self.bars is None or task is None:
            return
        now = time.monotonic()
        self.bars.update(task, completed=done, metrics=self.metrics() if task == self.fit else "")
        if now - self.drawn >= REFRESH:
            self.drawn = now
            self.bars.refresh()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the steps that a resumed run has done."""
        if self.enabled:
            self.fit = self._open().add_task("step", total=self.steps, completed=trainer.global_step, metrics="")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Steps, not batches: of accumulated gradients the last makes one."""
        self._show(self.fit, trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A second bar."""
        if self.enabled:
            self.validation = self._open().add_task("validation", total=self.validations(), metrics="")

    on_sanity_check_start = on_validation_start

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """One batch more."""
        self._show(self.validation, batch_idx + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The bar of the run alone again."""
        if self.bars is not None and self.validation is not None:
            self.bars.remove_task(self.validation)
            self.validation, self.drawn = None, 0.0
            self._show(self.fit, trainer.global_step)
        if trainer.state.fn != TrainerFn.FITTING:
            self._close()

    on_sanity_check_end = on_validation_end

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it was at the end."""
        self.drawn = 0.0
        self._show(self.fit, trainer.global_step)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the terminal back, whatever came before."""
        self._close()


class Lines(ProgressDisplay):
    """A line after the first step, then once a minute, after each validation and at the end: logs stay short."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.said = 0.0  # seconds
        self.first = self.step = 0  # steps done at the start, and when the last line was written

    def _say(self, text: str) -> None:
        self.said = time.monotonic()
        if self.enabled:
            print(text, flush=True)

    def _line(self) -> None:
        step, total = self.trainer.global_step, self.steps
        each = (time.monotonic() - self.begun) / max(1, step - self.first)
        left = f", {timedelta(seconds=round(each * (total - step)))} left" if total else ""
        self.step = step
        self._say(f"fit: step {step}/{total or '?'}, {self.metrics()}, {each:.3g} s a step{left}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts."""
        self.begun, self.first, self.step = time.monotonic(), trainer.global_step, trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Perhaps a line."""
        step = trainer.global_step
        ends = step == self.first + 1 or step == self.steps or time.monotonic() - self.said >= EVERY
        if ends and step > self.step:
            self._line()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Perhaps a line."""
        if time.monotonic() - self.said >= EVERY:
            self._say(f"{trainer.state.fn}: validation, batch {batch_idx + 1}/{self.validations() or '?'}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The result; 'framefold validate' prints a table instead."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._say(f"fit: validated at step {trainer.global_step}: {self.metrics()}")
