"""Digest of an adapter folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from framefold.adapters.hosts.hooks.peft_guard import ADAPTER_CONFIG
from framefold.adapters.pretrained.weights import WEIGHTS
from framefold.files import file_digest

from .config import LORA_FOLDER, LORA_WEIGHTS, has_lora


def adapter_digest(folder: Path) -> str:
    """Return the SHA-256 of the weights of an adapter folder; with LoRA, of its weights and its config as well."""
    names = (WEIGHTS, f"{LORA_FOLDER}/{LORA_WEIGHTS}", f"{LORA_FOLDER}/{ADAPTER_CONFIG}")
    digests = [file_digest(folder / name) for name in names]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if has_lora(folder) else digests[0]
