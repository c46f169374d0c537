"""Compressors for the visual tokens of long video, and the hosts they plug into.

Every module of this folder is imported, so a compressor is one new file: having a ``name`` registers it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil

from .base import Compressor
from .errors import FramefoldError
from .folder import load_folder
from .registry import build, list_compressors
from .tokens import Compressed, VideoTokens

for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg:  # the hosts import transformers, compressors do not
        importlib.import_module(f"{__name__}.{_module.name}")


def load(folder: str | os.PathLike[str], budget: float | int | str | None = None) -> Compressor:
    """Load an adapter folder written by ``save_pretrained`` or ``framefold export``.

    Args:
        budget: overrides the saved budget.

    Raises:
        AdapterFileError: no such folder, a damaged file, a newer format, or weights that do not fit.
    """
    return load_folder(folder, budget=budget)


__all__ = ["Compressed", "Compressor", "FramefoldError", "VideoTokens", "build", "list_compressors", "load"]
