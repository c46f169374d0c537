"""What a training begins with: a fresh compressor, or the adapter folder of the stage before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefold.adapters.base.build import build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.lora.config import Lora, has_lora, import_peft, read_lora
from framefold.adapters.pretrained.folder import load_folder
from framefold.adapters.pretrained.hub import locate
from framefold.errors import ConfigError
from framefold.messages import short
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.locate import FoundHost, find_host

from .lora import HostLora, check_base
from .lora_settings import LoraSettings, resolve_lora


@dataclass(frozen=True)
class Start:
    """A compressor, and LoRA that a host is to get.

    Attributes:
        compressor: with its weights, if it comes from a folder.
        settings: of LoRA, settled; None: the host gets none.
        found: LoRA of the folder. folder: where both come from.
    """

    compressor: Compressor
    settings: LoraSettings | None = None
    found: Lora | None = None
    folder: Path | None = None

    def tune(self, host: Host, host_folder: str) -> HostLora | None:
        """Put LoRA into the host, if there is to be any.

        Raises:
            ConfigError, AdapterFileError: see :class:`~framefold.training.lora.HostLora`.
        """
        if self.settings is None:
            return None
        if self.found is not None and self.folder is not None:
            check_base(host, self.folder, Path(host_folder))
        return HostLora(host.model, self.settings, self.found)


def begin(
    compressor: str,
    budget: Any,
    params: Mapping[str, Any] | None = None,
    lora: LoraSettings | Mapping[str, Any] | None = None,
    start: str | None = None,
) -> Start:
    """Find out what a training begins with; no host is needed.

    Args:
        compressor, budget, params: as for :func:`framefold.build`; with a start, params must be those of its adapter,
            and those that are not given are.
        lora: settings of LoRA on the host; None: none, or as in the start.
        start: adapter to go on from, a folder or on the Hub.

    Raises:
        UnknownCompressorError, ConfigError, BudgetError: wrong settings, or such as do not go with the start.
        AdapterFileError: no adapter folder, or a damaged one.
        MissingExtraError: there is to be LoRA, and PEFT is not installed.
    """
    fresh = build(compressor, budget, **(params or {}))
    if lora is not None:
        import_peft()
    if start is None:
        return Start(fresh, resolve_lora(lora, None))
    folder = locate(start)
    loaded = load_folder(folder, budget=budget)
    if loaded.name != fresh.name:
        raise ConfigError(f"{start} holds {loaded.name}, the training is of {fresh.name}: give it another start")
    different = _different(params or {}, loaded.params())
    if different is not None:
        raise ConfigError(f"{start} holds another {loaded.name}: {different}; without params it goes on with its own")
    found = read_lora(folder) if has_lora(folder) else None
    return Start(loaded, resolve_lora(lora, found), found, folder)


def _different(given: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """The first given parameter that is not the adapter's own, with both values; stages of a chain are looked into."""
    for name, value in given.items():
        other = own.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if (inner := _different(value, other)) is not None:
                return f"{name}.{inner}"
        elif (list(value) if isinstance(value, tuple) else value) != other:
            return f"{name} is {short(other)}, not {short(value)}"
    return None


def check_host(name: str, revision: str | None = None, frames: int | None = None) -> FoundHost:
    """Find out in no time that there is no host, before any work is done.

    Args:
        name: folder of a host, or its id in the cache of the Hub. revision: of an id.
        frames: most frames of a video that it is to be shown.

    Raises:
        HostError: there is no host.
        ConfigError: frames < 1.
    """
    if frames is not None and frames < 1:
        raise ConfigError(f"host_frames must be at least 1, not {frames}")
    return find_host(name, revision)
