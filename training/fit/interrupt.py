"""Make Ctrl-C end a run with the exit status of an interrupt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerStatus


@contextmanager
def reraise_interrupt(trainer: pl.Trainer) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` again, which Lightning turns into exit status 1.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    try:
        yield
    except SystemExit as error:
        if error.code == 1 and trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise
