"""SLURM takes a machine away: the run is saved between two steps and goes back to the queue.

Lightning does both wherever the signal meets a process: in the middle of a step, so that the batch at hand is lost to
the resumed run, and each rank in another place, so that they wait for each other for ever. Here the signal is only
noted, and all ranks act on it together once the step is done.
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

PATIENCE = 60  # seconds for scontrol


class Requeue(Callback):
    """On the signal that ``sbatch --signal=SIGUSR1@90`` asks for: save ``last.ckpt``, then ``scontrol requeue``.

    Training goes on until SLURM ends the job. It acts in tasks of srun only, where a job saves checkpoints at all, and
    not if Lightning is told SLURMEnvironment(auto_requeue=False). A validation that is under way is not finished: the
    resumed run repeats what came after the last checkpoint.
    """

    def __init__(self) -> None:
        self.asked, self.done = False, False
        self.step = -1  # steps done when this was last looked at
        self.before: dict[int, Any] = {}  # handlers that were there

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen. Lightning leaves signals alone that somebody listens to."""
        environment = trainer._accelerator_connector.cluster_environment
        kept = any(isinstance(callback, LastCheckpoint) for callback in trainer.checkpoint_callbacks)
        if stage != "fit" or not kept or threading.current_thread() is not threading.main_thread():
            return
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            number = environment.requeue_signal
            self.before[number] = signal.signal(number, self._note)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen no more. A run that breaks off is not torn down; its process ends."""
        while self.before:
            number, handler = self.before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Act, if this batch was the last of a step: gradients that add up are in no checkpoint."""
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if self._together(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.on_train_end(trainer, pl_module)  # saves what it has not saved yet
            self._requeue(trainer, f"saved at step {trainer.global_step}")

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Act without saving: a checkpoint from inside of a validation is not the state between two steps."""
        if not trainer.sanity_checking and self._together(trainer):
            self._requeue(trainer, "in the middle of a validation, which is repeated")

    def _together(self, trainer: pl.Trainer) -> bool:
        """Whether any rank was asked; every rank that listens calls this at the same time."""
        return bool(self.before) and not self.done and trainer.strategy.reduce_boolean_decision(self.asked, all=False)

    def _requeue(self, trainer: pl.Trainer, state: str) -> None:
        self.done = True
        if trainer.is_global_zero:
            print(f"fit: asked to end; {state}; {_put_back()}", file=sys.stderr, flush=True)
        trainer.strategy.barrier("Requeue")  # no rank goes on, and none ends, before the job is in the queue


def _put_back() -> str:
    """Put the job into the queue again; what came of it, as text."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} cannot be put back into the queue: {error}"
    if done.returncode:
        return f"job {job} cannot be put back into the queue: {' '.join((done.stderr or done.stdout).split())}"
    return f"job {job} is back in the queue"
