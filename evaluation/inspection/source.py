"""The compressor that a user names, with its LoRA; and whether a model is the embedded host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from framefold.adapters.base.build import load_or_build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.hosts.lora.config import LoraAdapter, has_lora, read_lora
from framefold.adapters.pretrained.config import CONFIG
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.errors import HostError
from framefold.training.frozen_host.locate import find_host


def compressor_and_lora(
    source: str | os.PathLike[str] | Compressor, budget: Budget | None
) -> tuple[Compressor, LoraAdapter | None]:
    """Return a compressor and the LoRA of its adapter.

    Args:
        source: a compressor, a registered name, or an adapter.
        budget: overrides that of the compressor.

    Raises:
        UnknownCompressorError, BudgetError, AdapterFileError, HubError, ConfigError: there is no such compressor, or it
            is damaged.
        MissingExtraError: the adapter has LoRA, and PEFT is not installed.
    """
    if isinstance(source, Compressor):
        source.budget = source.budget if budget is None else budget
        return source, None
    resolved = resolve_adapter(os.fspath(source))
    return load_or_build(resolved, budget), lora_of(resolved)


def lora_of(compressor: str) -> LoraAdapter | None:
    """Read the LoRA of an adapter folder; None if the folder has none, or for a registered name.

    Raises:
        AdapterFileError: the LoRA is damaged.
        MissingExtraError: PEFT is not installed.
    """
    folder = Path(compressor)
    return read_lora(folder) if (folder / CONFIG).is_file() and has_lora(folder) else None


def tinyhost_name(model: Any) -> str | None:
    """Return the folder of a loaded tinyhost; None for other hosts."""
    name = str(getattr(model, "name_or_path", ""))
    try:
        return name if name and find_host(name).is_tinyhost else None
    except HostError:  # it was built in memory, or its folder has gone
        return None
