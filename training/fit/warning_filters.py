"""Hide warnings and messages of training that a user can do nothing about."""

from __future__ import annotations

import logging
import os
import warnings

HIDDEN_WARNINGS = (  # each is about something intended
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


def filter_warnings() -> None:
    """Hide the warnings above, and Lightning's informational messages."""
    for pattern in HIDDEN_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: record.levelno > logging.INFO)
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn when loader workers are forked
