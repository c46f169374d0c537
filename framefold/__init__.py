"""framefold: plug-in adapters that compress the visual tokens of long video.

Public names are imported on first use, so that ``import framefold`` and ``framefold --help`` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from framefold.torchvision_finder import install as _install_torchvision
from framefold.version import __version__ as __version__

if TYPE_CHECKING:
    from framefold import errors
    from framefold.adapters import Compressed, Compressor, VideoTokens, build, list_compressors, load
    from framefold.adapters.base.merger import Merger
    from framefold.adapters.base.selector import Selector
    from framefold.adapters.hosts import attach, detach, list_families, register_family
    from framefold.adapters.hosts.hooks.init_from_host import init_from_host
    from framefold.adapters.hosts.hooks.losses import compressor_losses
    from framefold.adapters.hosts.lora.save_load import load_peft, save_peft
    from framefold.errors import FramefoldError
    from framefold.evaluation.ablation.ablate import ablate
    from framefold.evaluation.inspection.answer import answer
    from framefold.evaluation.inspection.show import show

_install_torchvision()  # transformers looks for torchvision once, so this must precede its import

_MODULE_OF = {
    **dict.fromkeys(("Compressed", "Compressor", "VideoTokens", "build", "list_compressors", "load"), ".adapters"),
    **dict.fromkeys(("attach", "detach", "list_families", "register_family"), ".adapters.hosts"),
    **dict.fromkeys(("load_peft", "save_peft"), ".adapters.hosts.lora.save_load"),
    "FramefoldError": ".errors",
    "ablate": ".evaluation.ablation.ablate",
    "answer": ".evaluation.inspection.answer",
    "show": ".evaluation.inspection.show",
    "Merger": ".adapters.base.merger",
    "Selector": ".adapters.base.selector",
    "compressor_losses": ".adapters.hosts.hooks.losses",
    "init_from_host": ".adapters.hosts.hooks.init_from_host",
}

__all__ = [
    "Compressed",
    "Compressor",
    "FramefoldError",
    "Merger",
    "Selector",
    "VideoTokens",
    "ablate",
    "answer",
    "attach",
    "build",
    "compressor_losses",
    "detach",
    "errors",
    "init_from_host",
    "list_compressors",
    "list_families",
    "load",
    "load_peft",
    "register_family",
    "save_peft",
    "show",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module(".errors", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'framefold' has no attribute {name!r}")
    from framefold.extras import named_extra

    with named_extra():
        return getattr(importlib.import_module(_MODULE_OF[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
