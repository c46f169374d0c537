"""Compressors for the visual tokens of long video.

Every module of ``compressors/`` and ``in_llm/`` is imported here, so that adding a compressor takes one new file. A
class registers itself by defining ``name``.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import warnings

from framefold.adapters.base.build import build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.registry import list_compressors
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.pretrained.config import read_config
from framefold.adapters.pretrained.folder import load_folder
from framefold.adapters.pretrained.hub import locate_adapter
from framefold.errors import FramefoldError

for _folder in ("compressors", "in_llm"):
    for _module in pkgutil.iter_modules([os.path.join(__path__[0], _folder)]):
        importlib.import_module(f"{__name__}.{_folder}.{_module.name}")


def load(
    source: str | os.PathLike[str], budget: float | int | str | None = None, *, revision: str | None = None
) -> Compressor:
    """Load the compressor of an adapter written by ``save_pretrained``, ``push_to_hub`` or ``framefold export``.

    It is in eval mode, as models of transformers are: call ``train()`` before training it further. ``build`` returns a
    compressor in training mode, as constructors of torch do. ``attach`` gives both the mode of the host.

    If the adapter also contains LoRA weights of the host (``lora/``), they are not loaded, with a warning.

    Args:
        source: folder, or ``user/name`` or ``user/name@revision`` on the Hub. A local folder of that name takes
            precedence over the Hub.
        budget: overrides the saved budget.
        revision: branch, tag or commit on the Hub.

    Raises:
        AdapterFileError: no such folder, a damaged file, a newer format, or weights that do not match the config.
        HubError: no such repository or revision, no permission, or no connection.
    """
    folder = locate_adapter(source, revision)
    compressor = load_folder(folder, budget=budget)
    if read_config(folder).get("lora") is True:
        warnings.warn(
            f"{source} also contains LoRA weights that were trained with this compressor and are not loaded; "
            f"framefold.load_peft(host, {str(source)!r}) loads both",
            stacklevel=2,
        )
    return compressor


__all__ = ["Compressed", "Compressor", "FramefoldError", "VideoTokens", "build", "list_compressors", "load"]
