"""Initial weights of a run: a fresh compressor, or the adapter of the previous stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from framefold.adapters.base.build import build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.lora.config import LoraAdapter, has_lora, import_peft, read_lora
from framefold.adapters.pretrained.folder import load_folder
from framefold.adapters.pretrained.hub import locate_adapter
from framefold.errors import ConfigError
from framefold.messages import short
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.locate import HostFolder, find_host
from framefold.training.memory.host_weights import HostWeights
from framefold.training.strategies.fsdp2 import FSDP2

from .lora import HostLora, check_lora_host
from .lora_settings import LoraSettings, resolve_lora


@dataclass(frozen=True)
class Start:
    """A compressor to train, and LoRA to inject into the host.

    Attributes:
        compressor: with its weights, if it comes from a folder.
        settings: of LoRA, resolved; None for training without LoRA.
        saved: LoRA of the folder.
        folder: adapter folder of both.
    """

    compressor: Compressor
    settings: LoraSettings | None = None
    saved: LoraAdapter | None = None
    folder: Path | None = None

    def inject_lora(self, host: Host, host_folder: str) -> HostLora | None:
        """Inject LoRA into the host, if there are settings for it.

        Raises:
            ConfigError, AdapterFileError: See :class:`~framefold.training.lora.HostLora`.
        """
        if self.settings is None:
            return None
        if self.saved is not None and self.folder is not None:
            check_lora_host(host, self.folder, Path(host_folder))
        return HostLora(host.model, self.settings, self.saved)


def resolve_start(
    compressor: str,
    budget: Any,
    params: Mapping[str, Any] | None = None,
    lora: LoraSettings | Mapping[str, Any] | None = None,
    start: str | None = None,
) -> Start:
    """Build or load the compressor, and resolve the settings of LoRA; needs no host.

    Args:
        compressor: see :func:`framefold.build`.
        budget: see :func:`framefold.build`.
        params: see :func:`framefold.build`; with ``start``, they must equal those of its adapter, which are the
            default.
        lora: settings of LoRA in the host; None for training without LoRA, or with that of ``start``.
        start: adapter to start from, a folder or on the Hub.

    Raises:
        UnknownCompressorError, ConfigError, BudgetError: A setting is wrong, or does not agree with the start.
        AdapterFileError: The start is not an adapter folder, or is damaged.
        MissingExtraError: LoRA is requested, and PEFT is not installed.
    """
    fresh = build(compressor, budget, **(params or {}))
    if lora is not None:
        import_peft()
    if start is None:
        return Start(fresh, resolve_lora(lora, None))
    folder = locate_adapter(start)
    loaded = load_folder(folder, budget=budget)
    if loaded.name != fresh.name:
        raise ConfigError(f"{start} holds {loaded.name}, not {fresh.name}: give another start or compressor")
    difference = _first_difference(params or {}, loaded.params())
    if difference is not None:
        raise ConfigError(
            f"{start} holds {loaded.name} with other params: {difference}; drop params to use those of the start"
        )
    saved = read_lora(folder) if has_lora(folder) else None
    return Start(loaded.train(), resolve_lora(lora, saved), saved, folder)


def _first_difference(given: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """Return the first given parameter that differs, with both values; the params of chain stages are compared too."""
    for name, value in given.items():
        other = own.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if (inner := _first_difference(value, other)) is not None:
                return f"{name}.{inner}"
        elif (list(value) if isinstance(value, tuple) else value) != other:
            return f"{name} is {short(other)}, not {short(value)}"
    return None


def check_host(
    name: str, revision: str | None = None, frames: int | None = None, vision_chunk: int | None = None
) -> HostFolder:
    """Find a host without loading it, so that a missing one is reported before any work is done.

    Args:
        name: folder of a host, or its id in the cache of the Hub.
        revision: of an id.
        frames: maximum number of frames of a video that the host will encode.
        vision_chunk: number of frames that its vision encoder will take at once.

    Raises:
        HostError: There is no host.
        ConfigError: frames or vision_chunk < 1.
    """
    if vision_chunk is not None and vision_chunk < 1:
        raise ConfigError(f"vision_chunk must be at least 1, not {vision_chunk}")
    if frames is not None and frames < 1:
        raise ConfigError(f"host_frames must be at least 1, not {frames}")
    return find_host(name, revision)


def run_device(trainer: Any, weights: HostWeights) -> torch.device | None:
    """Return the device on which a trainer will run a host; None without a trainer.

    Raises:
        ConfigError: The strategy of the trainer cannot shard a host in 4 bits.
    """
    if trainer is None:
        return None
    strategy = trainer.strategy
    shards = isinstance(strategy, FSDP2) or getattr(strategy, "zero_stage_3", False)
    if weights.bits is not None and shards:
        raise ConfigError(
            "FSDP2 and ZeRO-3 cannot shard a host in 4 bits: use --trainer.strategy ddp, or drop host_bits"
        )
    return strategy.root_device
