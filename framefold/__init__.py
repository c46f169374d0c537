"""framefold: plug-in adapters that shrink the visual tokens of long video.

Names are imported when they are first used, so that ``import framefold`` and ``framefold --help`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from framefold.adapters import Compressed, Compressor, VideoTokens, build, list_compressors, load
    from framefold.adapters.hosts import attach, detach
    from framefold.adapters.hosts.hooks.init_from_host import init_from_host
    from framefold.adapters.hosts.lora.save_load import load_peft, save_peft
    from framefold.errors import FramefoldError


__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(("Compressed", "Compressor", "VideoTokens", "build", "list_compressors", "load"), ".adapters"),
    **dict.fromkeys(("attach", "detach"), ".adapters.hosts"),
    **dict.fromkeys(("load_peft", "save_peft"), ".adapters.hosts.lora.save_load"),
    "FramefoldError": ".errors",
    "init_from_host": ".adapters.hosts.hooks.init_from_host",
}

__all__ = [
    "Compressed",
    "Compressor",
    "FramefoldError",
    "VideoTokens",
    "attach",
    "build",
    "detach",
    "init_from_host",
    "list_compressors",
    "load",
    "load_peft",
    "save_peft",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'framefold' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
