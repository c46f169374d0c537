"""Reading and validating ``config.json`` of an adapter folder; nothing in it is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from framefold.errors import AdapterFileError
from framefold.messages import one_line, short

# Increased only if an older framefold would misread a folder; new fields need no new format. Folders of format 1 are in
# tests/assets/adapters_v1.
FORMAT = 1

CONFIG = "config.json"

MAX_CONFIG = 1_000_000  # bytes

MAX_WIDTH = 2**24

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "framefold_format": int,
    "compressor": str,
    "budget": (int, float, str),
    "params": dict,
}

# Optional fields about the origin of the adapter, which may be missing or null. Unknown fields are kept and not
# checked.
_OPTIONAL: dict[str, type] = {
    "framefold_version": str,
    "compressor_classes": dict,
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
        AdapterFileError: the file is missing or not JSON, a field is missing or of a wrong type, or the format is
            newer.
    """
    return check_config(read_adapter_json(path / CONFIG), path / CONFIG)


def read_adapter_json(file: Path) -> dict[str, Any]:
    """Read a file of an adapter folder that contains a JSON object.

    Raises:
        AdapterFileError: the file is missing, too large for a config, or not a JSON object.
    """
    try:
        if file.exists() and (not file.is_file() or file.stat().st_size > MAX_CONFIG):
            raise OSError(f"not a regular file of at most {MAX_CONFIG} bytes")
        config = json.loads(file.read_bytes().decode())
    except FileNotFoundError as error:
        raise AdapterFileError(f"{file.parent} is not an adapter folder: it has no {file.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file} cannot be read: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise AdapterFileError(f"{file} must contain a JSON object")
    return config


def check_config(config: dict[str, Any], file: Path | str) -> dict[str, Any]:
    """Return a config unchanged after checking its format and the types of its fields.

    Args:
        config: content of the file.
        file: name of the file, for messages.

    Raises:
        AdapterFileError: a field is missing or of a wrong type, or the format is newer.
    """
    for key, kinds in _FIELDS.items():
        if not isinstance(config.get(key), kinds):
            raise AdapterFileError(f"{file}: field {key!r} is missing or of the wrong type ({short(config.get(key))})")
    if isinstance(config["framefold_format"], bool) or config["framefold_format"] < 1:
        raise AdapterFileError(f"{file}: framefold_format must be 1 or more, got {short(config['framefold_format'])}")
    if config["framefold_format"] > FORMAT:
        newer = short(config["framefold_format"])
        raise AdapterFileError(f"{file} has format {newer}, newer than {FORMAT}: upgrade framefold")
    for key, kind in _OPTIONAL.items():
        value = config.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) and kind is not bool):
            raise AdapterFileError(f"{file}: field {key!r} must be {kind.__name__}, got {short(value)}")
    if config.get("width") is not None and not 1 <= config["width"] <= MAX_WIDTH:
        raise AdapterFileError(f"{file}: width must be 1 to {MAX_WIDTH}, got {short(config['width'])}")
    return config
