"""Save a run between two steps and requeue its job when SLURM is about to end it.

Lightning does both as soon as a process receives the signal. That may be in the middle of a step, so that the resumed
run loses the current batch, and at different places on different ranks, so that they wait for each other forever. Here
the signal is only recorded, and all ranks act on it together after the step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.callbacks import Callback

from framefold.training.checkpoint.callbacks import LastCheckpoint

SCONTROL_TIMEOUT = 60  # seconds


class SlurmRequeue(Callback):
    """Save ``last.ckpt`` and call ``scontrol requeue`` on the signal that ``sbatch --signal=SIGUSR1@90`` requests.

    Training continues until SLURM ends the job. The callback acts only in tasks of srun, only if the run saves
    checkpoints, and not if Lightning is configured with SLURMEnvironment(auto_requeue=False). A running validation is
    not finished: the resumed run repeats what came after the last checkpoint.
    """

    def __init__(self) -> None:
        self.is_requested, self.is_requeued = False, False
        self.step = -1  # steps done at the latest check
        self.previous_handlers: dict[int, Any] = {}  # by signal

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Install the signal handler; Lightning does not replace existing handlers."""
        environment = trainer._accelerator_connector.cluster_environment
        saves = any(isinstance(callback, LastCheckpoint) for callback in trainer.checkpoint_callbacks)
        if stage != "fit" or not saves or threading.current_thread() is not threading.main_thread():
            return
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            number = environment.requeue_signal
            self.previous_handlers[number] = signal.signal(number, self._record)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the signal handlers. Not called when a run fails, but then the process ends anyway."""
        while self.previous_handlers:
            number, handler = self.previous_handlers.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Save and requeue after the last batch of a step; accumulated gradients are not part of a checkpoint."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if self._any_rank_requested(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.on_train_end(trainer, pl_module)  # saves this step, unless it has been saved
            self._requeue(trainer, f"saved at step {trainer.global_step}")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Requeue without saving: a checkpoint saved during validation is not the state between two steps."""
        if not trainer.sanity_checking and self._any_rank_requested(trainer):
            self._requeue(trainer, "in the middle of a validation, which is repeated")

    def _any_rank_requested(self, trainer: pl.Trainer) -> bool:
        """Return whether any rank has received the signal; all ranks with a handler call this at the same time."""
        if not self.previous_handlers or self.is_requeued:
            return False
        return trainer.strategy.reduce_boolean_decision(self.is_requested, all=False)

    def _requeue(self, trainer: pl.Trainer, state: str) -> None:
        self.is_requeued = True
        if trainer.is_global_zero:
            print(f"fit: SLURM ends the job; {state}; {_requeue_job()}", file=sys.stderr, flush=True)
        trainer.strategy.barrier("Requeue")  # no rank continues or ends before the job is in the queue


def _requeue_job() -> str:
    """Put the job back into the queue and return the outcome as text."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=SCONTROL_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} cannot be put back into the queue: {error}"
    if done.returncode:
        return f"job {job} cannot be put back into the queue: {' '.join((done.stderr or done.stdout).split())}"
    return f"job {job} is back in the queue"
