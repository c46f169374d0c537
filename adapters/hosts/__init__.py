"""Attaching a compressor to an unmodified transformers video-LLM."""

from __future__ import annotations

from . import llava_onevision as llava_onevision  # importing a family registers it
from .attach import Handle, attach, detach
from .family import Encoded, Family, list_families, register_family
from .prepare import Prepared, encode, prepare

__all__ = [
    "Encoded",
    "Family",
    "Handle",
    "Prepared",
    "attach",
    "detach",
    "encode",
    "list_families",
    "prepare",
    "register_family",
]
