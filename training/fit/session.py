"""Manners of a training session: no noise that a user cannot act on, and Ctrl-C that is seen as Ctrl-C."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerStatus

# Warnings about what is meant to be as it is.
QUIET = (
    r".*does not have many workers.*",
    r".*Your `IterableDataset` has `__len__` defined.*",
    r".*srun.*command is available.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*found .* module\(s\) in eval mode.*",
    r".*Found .* in eval mode.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*The `lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*The dirpath has changed from .*",
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
)


def quiet() -> None:
    """Drop what a user can neither act on nor learn from."""
    for pattern in QUIET:
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: record.levelno > logging.INFO)
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # loader workers are forked


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Around a run of the trainer: Lightning turns Ctrl-C into exit status 1.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    try:
        yield
    except SystemExit:
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise
