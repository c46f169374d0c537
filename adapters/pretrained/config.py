"""``config.json`` of an adapter folder: what it says, read and checked without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from framefold.errors import AdapterFileError
from framefold.messages import one_line, short

# Raised only when an older framefold would misread a folder; further fields do not. tests/adapters_v1 are folders of 1.
FORMAT = 1

CONFIG = "config.json"

MAX_CONFIG = 1_000_000  # bytes

LARGEST_WIDTH = 2**24

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "framefold_format": int,
    "compressor": str,
    "budget": (int, float, str),
    "params": dict,
}

# May be missing or null. Where and how the adapter was made; what else a config holds is kept and not looked at.
_FURTHER: dict[str, type] = {
    "framefold_version": str,
    "base_model_name_or_path": str,
    "base_model_revision": str,
    "host": str,
    "width": int,
    "host_weights": str,
    "lora": bool,
    "frame_sampling": dict,
    "training": dict,
}


def read_config(path: Path) -> dict[str, Any]:
    """Read and validate the config of an adapter folder.

    Raises:
        AdapterFileError: missing, not JSON, a field missing or of a wrong type, or a newer format.
    """
    return check_config(read_adapter_json(path / CONFIG), path / CONFIG)


def read_adapter_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of an adapter folder.

    Raises:
        AdapterFileError: missing, too large for a config, or not a JSON object.
    """
    try:
        if file.exists() and (not file.is_file() or file.stat().st_size > MAX_CONFIG):
            raise OSError(f"no file of at most {MAX_CONFIG} bytes")
        config = json.loads(file.read_bytes().decode())
    except FileNotFoundError as error:
        raise AdapterFileError(f"{file.parent} is no adapter folder: it has no {file.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file} cannot be read: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise AdapterFileError(f"{file} must hold a JSON object")
    return config


def check_config(config: dict[str, Any], file: Path | str) -> dict[str, Any]:
    """The config of a compressor, if its fields have the right types and it is of no newer format.

    Raises:
        AdapterFileError: it is not so; the message names the file.
    """
    for key, kinds in _FIELDS.items():
        if not isinstance(config.get(key), kinds):
            raise AdapterFileError(f"{file}: field {key!r} is missing or of the wrong type ({short(config.get(key))})")
    if isinstance(config["framefold_format"], bool) or config["framefold_format"] < 1:
        raise AdapterFileError(f"{file}: framefold_format must be 1 or more, got {short(config['framefold_format'])}")
    if config["framefold_format"] > FORMAT:
        newer = short(config["framefold_format"])
        raise AdapterFileError(f"{file} has format {newer}, newer than {FORMAT}: upgrade framefold")
    for key, kind in _FURTHER.items():
        value = config.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) and kind is not bool):
            raise AdapterFileError(f"{file}: field {key!r} must be {kind.__name__}, got {short(value)}")
    if config.get("width") is not None and not 1 <= config["width"] <= LARGEST_WIDTH:
        raise AdapterFileError(f"{file}: width must be 1 to {LARGEST_WIDTH}, got {short(config['width'])}")
    return config
