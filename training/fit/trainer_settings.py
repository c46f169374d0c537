"""Settings of Lightning's trainer that cannot train a compressor, refused before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framefold.errors import ConfigError

HALF = ("16-true", "transformer-engine-float16")  # the weights themselves are in half precision
# What trainer.barebones forbids -> the value that switches it off.
FORBIDDEN = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse settings under which nothing useful would be trained.

    Raises:
        ConfigError: such a setting is given.
    """
    if trainer["barebones"]:
        without = " ".join(f"--trainer.{name} {str(value).lower()}" for name, value in FORBIDDEN.items())
        raise ConfigError(
            "trainer.barebones measures the loops of Lightning alone and excludes what fit needs (progress, logs, "
            f"checkpoints, trainer.log_every_n_steps): drop it. To train without files: {without}"
        )
    if str(trainer["precision"]) in HALF:
        raise ConfigError(
            f"trainer.precision {trainer['precision']} keeps the trained weights in half precision, in which AdamW "
            "makes them NaN: use 16-mixed, bf16-mixed or 32-true"
        )
