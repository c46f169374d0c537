"""The adapter folder: ``config.json`` and, where there are weights, ``model.safetensors``.

Nothing in a folder is executed: the compressor is looked up in the registry by name, its parameters are validated
against the constructor's signature, and weights are read with safetensors only.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import AdapterFileError, FramefoldError
from .registry import build, get

if TYPE_CHECKING:
    from .base import Compressor

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "framefold_format": int,
    "compressor": str,
    "budget": (int, float),
    "params": dict,
}


def save_folder(compressor: Compressor, folder: str | os.PathLike[str], fields: dict[str, Any]) -> None:
    """Write an adapter folder; each file is written beside and renamed, the config last.

    Args:
        fields: further JSON-able fields of the config, such as the base model.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = fields | {
        "framefold_format": FORMAT,
        "compressor": compressor.name,
        "budget": compressor.budget,
        "params": compressor.params(),
    }
    text = json.dumps(config, indent=2) + "\n"
    state = {key: value.detach().contiguous().cpu() for key, value in compressor.state_dict().items()}
    if state:
        replace_file(path / WEIGHTS, lambda beside: save_file(state, beside))
    else:
        (path / WEIGHTS).unlink(missing_ok=True)
    replace_file(path / CONFIG, lambda beside: beside.write_text(text))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and rename it, so that a full disk or a kill leaves the old one whole.

    Args:
        write: called with the path to write to.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        write(beside)
        beside.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_folder(
    folder: str | os.PathLike[str], expected: type | None = None, budget: float | int | None = None
) -> Compressor:
    """Load an adapter folder.

    Args:
        expected: class (or base class) that the adapter must have.
        budget: overrides the saved budget.

    Raises:
        AdapterFileError: no such folder, a damaged file, a newer format, or weights that do not fit the config.
    """
    path = Path(folder)
    config = read_config(path)
    try:
        cls = get(config["compressor"])
        if expected is not None and not issubclass(cls, expected):
            raise AdapterFileError(f"the adapter is a {cls.name!r}, not a {expected.__name__}")
        compressor = build(config["compressor"], config["budget"] if budget is None else budget, **config["params"])
    except FramefoldError as error:
        raise AdapterFileError(f"{path / CONFIG}: {error}") from error
    state = _read_weights(path)
    try:
        compressor.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise AdapterFileError(f"{path / WEIGHTS} does not fit {path / CONFIG}: {error}") from error
    return compressor


def read_config(path: Path) -> dict[str, Any]:
    """Read and validate the config of an adapter folder.

    Raises:
        AdapterFileError: missing, not JSON, a field missing or of a wrong type, or a newer format.
    """
    file = path / CONFIG
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise AdapterFileError(f"{path} is no adapter folder: it has no {CONFIG}") from error
    except (OSError, ValueError) as error:
        raise AdapterFileError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AdapterFileError(f"{file} must hold a JSON object")
    for key, kinds in _FIELDS.items():
        if not isinstance(config.get(key), kinds):
            raise AdapterFileError(f"{file}: field {key!r} is missing or of the wrong type ({config.get(key)!r})")
    if config["framefold_format"] > FORMAT:
        raise AdapterFileError(
            f"{file} has format {config['framefold_format']}, newer than {FORMAT}: upgrade framefold"
        )
    return config


def _read_weights(path: Path) -> dict[str, Any]:
    file = path / WEIGHTS
    if not file.exists():
        return {}
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{file} is damaged or no safetensors file: {error}") from error
