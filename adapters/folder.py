"""The adapter folder: ``config.json`` and, where there are weights, ``model.safetensors``.

Nothing in a folder is executed: the compressor is looked up in the registry by name, its parameters are validated
against the constructor's signature, and weights are read with safetensors only.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import AdapterFileError, ConfigError, FramefoldError
from .params import short
from .registry import get, make

if TYPE_CHECKING:
    from .base import Compressor

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG = 1_000_000  # bytes
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "framefold_format": int,
    "compressor": str,
    "budget": (int, float),
    "params": dict,
}


def save_folder(compressor: Compressor, folder: str | os.PathLike[str], fields: dict[str, Any]) -> None:
    """Write an adapter folder; the files are written beside and renamed when all are there, the config last.

    Args:
        fields: further JSON-able fields of the config, such as the base model.

    Raises:
        ConfigError: the class is not the registered one of its name, so that another one would be loaded.
    """
    if get(compressor.name) is not type(compressor):
        raise ConfigError(f"{type(compressor).__name__} needs a name of its own, {compressor.name!r} is another class")
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
    files: dict[Path, Callable[[Path], Any]] = {path / CONFIG: lambda beside: beside.write_text(text)}
    if state:
        files = {path / WEIGHTS: lambda beside: save_file(state, beside), **files}
    replace_files(files)
    if not state:
        (path / WEIGHTS).unlink(missing_ok=True)


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and rename it, so that a full disk or a kill leaves the old one whole.

    Args:
        write: called with the path to write to.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    replace_files({path: write})


def replace_files(files: dict[Path, Callable[[Path], Any]]) -> None:
    """As :func:`replace_file`, for files that belong together: none is renamed before all are written."""
    written: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            written[path] = Path(name)
            try:
                write(written[path])
            except (OSError, SafetensorError) as error:
                text = getattr(error, "strerror", None) or str(error)
                raise OSError(getattr(error, "errno", None) or errno.EIO, text, str(path)) from error
            written[path].chmod(0o644)  # mkstemp makes files that only their owner can read
        for path, beside in written.items():
            os.replace(beside, path)
    finally:
        for beside in written.values():
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
        arguments = cls, config["budget"] if budget is None else budget, config["params"]
        with torch.device("meta"):  # sizes from a file cost no memory before the weights are known to have them
            outline = make(*arguments)
        state = _fitting_weights(path, outline)
        compressor = make(*arguments)
    except AdapterFileError:
        raise
    except FramefoldError as error:
        raise AdapterFileError(f"{path / CONFIG}: {error}") from error
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # sizes that no tensor can have
        raise AdapterFileError(f"{path / CONFIG}: no such {config['compressor']}: {_line(error)}") from error
    compressor.load_state_dict(state, strict=True)
    return compressor


def read_config(path: Path) -> dict[str, Any]:
    """Read and validate the config of an adapter folder.

    Raises:
        AdapterFileError: missing, not JSON, a field missing or of a wrong type, or a newer format.
    """
    file = path / CONFIG
    try:
        if file.exists() and (not file.is_file() or file.stat().st_size > MAX_CONFIG):
            raise OSError(f"no file of at most {MAX_CONFIG} bytes")
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise AdapterFileError(f"{path} is no adapter folder: it has no {CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AdapterFileError(f"{file} must hold a JSON object")
    for key, kinds in _FIELDS.items():
        if not isinstance(config.get(key), kinds):
            raise AdapterFileError(f"{file}: field {key!r} is missing or of the wrong type ({short(config.get(key))})")
    if isinstance(config["framefold_format"], bool) or config["framefold_format"] < 1:
        raise AdapterFileError(f"{file}: framefold_format must be 1 or more, got {config['framefold_format']}")
    if config["framefold_format"] > FORMAT:
        raise AdapterFileError(
            f"{file} has format {config['framefold_format']}, newer than {FORMAT}: upgrade framefold"
        )
    return config


def _fitting_weights(path: Path, outline: Compressor) -> dict[str, torch.Tensor]:
    """The weights of a folder, if they are those of the outline (a compressor without memory) and finite numbers."""
    state = _read_weights(path)
    wanted = outline.state_dict()
    try:
        outline.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise AdapterFileError(f"{path / WEIGHTS} does not fit {path / CONFIG}: {_line(error)}") from error
    for name, value in state.items():
        if value.is_floating_point() != wanted[name].is_floating_point():
            raise AdapterFileError(f"{path / WEIGHTS} does not fit {path / CONFIG}: {name} is {value.dtype}")
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise AdapterFileError(f"{path / WEIGHTS}: {name} holds NaN or infinite values")
    return state


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _read_weights(path: Path) -> dict[str, Any]:
    file = path / WEIGHTS
    if not file.exists():
        return {}
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{file} is damaged or no safetensors file: {error}") from error
