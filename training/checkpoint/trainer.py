"""Lightning's trainer, with atomic checkpoints and exact resuming."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector

from .place import restore_place
from .write import save_atomically


class Signals(_SignalConnector):
    """Lightning's, which leaves SIGTERM to a handler that exists already.

    Lightning's own handler starts a collective operation wherever the process is, so that ranks may wait for each other
    forever.
    """

    def register_signal_handlers(self) -> None:
        existing = signal.getsignal(signal.SIGTERM)
        super().register_signal_handlers()
        if callable(existing):
            self._register_signal(signal.SIGTERM, existing)


class AtomicTrainer(pl.Trainer):
    """Lightning's trainer, with atomic checkpoints, including those of SLURM's signal, and exact resuming."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signal_connector = Signals(self)

    def save_checkpoint(self, filepath: Any, weights_only: bool | None = None, storage_options: Any = None) -> None:
        save_atomically(self, Path(filepath), weights_only=weights_only)

    def _run_stage(self) -> Any:
        if self.training:
            restore_place(self)
        return super()._run_stage()
