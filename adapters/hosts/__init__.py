"""Attaching a compressor to an unmodified transformers video-LLM.

Every module of this folder is imported, so a family is one new file: importing it registers it.
"""

from __future__ import annotations

import importlib
import pkgutil

from .attach import Handle, attach, detach
from .encoded import Encoded
from .family import Family, list_families, register_family
from .prepare import Prepared, prepare
from .splice import expand_placeholders
from .vision import encode

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Encoded",
    "Family",
    "Handle",
    "Prepared",
    "attach",
    "detach",
    "encode",
    "expand_placeholders",
    "list_families",
    "prepare",
    "register_family",
]
