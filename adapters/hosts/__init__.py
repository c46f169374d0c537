"""Attach a compressor to an unmodified transformers video-LLM.

Every module of ``families`` is imported here and registers itself, so that a new family is one new file.
"""

from __future__ import annotations

import importlib
import os
import pkgutil

from framefold.extras import named_extra

with named_extra():
    importlib.import_module("transformers")

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family, list_families, register_family
from framefold.adapters.hosts.hooks.attach import Handle, attach, detach
from framefold.adapters.hosts.hooks.key_bias import biased_keys
from framefold.adapters.hosts.hooks.layer_hooks import in_llm
from framefold.adapters.hosts.prompt.placeholders import expand_placeholders
from framefold.adapters.hosts.prompt.prepare import Prepared, prepare
from framefold.adapters.hosts.prompt.vision import encode

for _module in pkgutil.iter_modules([os.path.join(__path__[0], "families")]):
    importlib.import_module(f"{__name__}.families.{_module.name}")

__all__ = [
    "Encoded",
    "Family",
    "Handle",
    "Prepared",
    "attach",
    "biased_keys",
    "detach",
    "encode",
    "expand_placeholders",
    "in_llm",
    "list_families",
    "prepare",
    "register_family",
]
