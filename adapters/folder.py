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
    "budget": (int, float, str),
    "params": dict,
}


def save_folder(
    compressor: Compressor,
    folder: str | os.PathLike[str],
    fields: dict[str, Any],
    more: dict[str, Callable[[Path], Any]] | None = None,
) -> None:
    """Write an adapter folder; the files are written beside and renamed when all are there, the config last.

    Args:
        fields: further JSON-able fields of the config, such as the base model.
        more: further files of the folder by relative path, and for each what is called with the path to write to.

    Raises:
        ConfigError: the class is not the registered one of its name, so that another one would be loaded; or ZeRO-3
            has taken the weights apart.
    """
    if any(getattr(parameter, "ds_numel", 0) > parameter.numel() for parameter in compressor.parameters()):
        raise ConfigError(
            "the weights are spread over processes (ZeRO-3): save with deepspeed.zero.GatheredParameters("
            "list(compressor.parameters())) around it"
        )
    if get(compressor.name) is not type(compressor):
        raise ConfigError(f"{type(compressor).__name__} needs a name of its own, {compressor.name!r} is another class")
    path = Path(folder)
    text = json.dumps(fields | describe(compressor), indent=2) + "\n"
    state = {key: value.detach().contiguous().cpu() for key, value in compressor.state_dict().items()}
    files: dict[Path, Callable[[Path], Any]] = {path / CONFIG: lambda beside: beside.write_text(text)}
    if state:
        files = {path / WEIGHTS: lambda beside: save_file(state, beside), **files}
    files = {path / name: write for name, write in (more or {}).items()} | files
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    replace_files(files)
    if not state:
        (path / WEIGHTS).unlink(missing_ok=True)


def describe(compressor: Compressor) -> dict[str, Any]:
    """The fields of a config that say which compressor it is."""
    return {
        "framefold_format": FORMAT,
        "compressor": compressor.name,
        "budget": compressor.budget,
        "params": compressor.params(),
    }


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
    folder: str | os.PathLike[str], expected: type | None = None, budget: float | int | str | None = None
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
    return restore(config, read_weights(path / WEIGHTS), path / CONFIG, path / WEIGHTS, expected, budget)


def restore(
    config: dict[str, Any],
    state: dict[str, torch.Tensor],
    config_file: Path,
    weights_file: Path,
    expected: type | None = None,
    budget: float | int | str | None = None,
) -> Compressor:
    """Make the compressor of a checked config, with its weights.

    Args:
        state: names and tensors, as they were read from a file.
        config_file, weights_file: where both come from, for messages.
        expected, budget: as for :func:`load_folder`.

    Raises:
        AdapterFileError: no such compressor, or weights that do not fit.
    """
    try:
        cls = get(config["compressor"])
        if expected is not None and not issubclass(cls, expected):
            raise AdapterFileError(f"the adapter is a {cls.name!r}, not a {expected.__name__}")
        arguments = cls, config["budget"] if budget is None else budget, config["params"]
        with torch.device("meta"):  # sizes from a file cost no memory before the weights are known to have them
            outline = make(*arguments)
        _check_weights(state, outline, config_file, weights_file)
        compressor = make(*arguments)
    except AdapterFileError:
        raise
    except FramefoldError as error:
        raise AdapterFileError(f"{config_file}: {error}") from error
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:  # sizes that no tensor can have
        raise AdapterFileError(f"{config_file}: no such {config['compressor']}: {one_line(error)}") from error
    compressor.load_state_dict(state, strict=True)
    return compressor


def read_config(path: Path) -> dict[str, Any]:
    """Read and validate the config of an adapter folder.

    Raises:
        AdapterFileError: missing, not JSON, a field missing or of a wrong type, or a newer format.
    """
    return check_config(read_json(path / CONFIG), path / CONFIG)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of an adapter folder.

    Raises:
        AdapterFileError: missing, too large for a config, or not a JSON object.
    """
    try:
        if file.exists() and (not file.is_file() or file.stat().st_size > MAX_CONFIG):
            raise OSError(f"no file of at most {MAX_CONFIG} bytes")
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise AdapterFileError(f"{file.parent} is no adapter folder: it has no {file.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AdapterFileError(f"{file} must hold a JSON object")
    return config


def check_config(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """The config of a compressor, if its fields have the right types and it is of no newer format.

    Raises:
        AdapterFileError: it is not so; the message names the file.
    """
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


def _check_weights(state: dict[str, torch.Tensor], outline: Compressor, config_file: Path, weights_file: Path) -> None:
    """Whether weights are those of the outline (a compressor without memory, which gets them), and finite numbers."""
    wanted = outline.state_dict()
    try:
        outline.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise AdapterFileError(f"{weights_file} does not fit {config_file}: {one_line(error)}") from error
    for name, value in state.items():
        if value.is_floating_point() != wanted[name].is_floating_point():
            raise AdapterFileError(f"{weights_file} does not fit {config_file}: {name} is {value.dtype}")
    check_finite(state, weights_file)


def check_finite(state: dict[str, torch.Tensor], file: Path) -> None:
    """Refuse tensors that hold NaN or infinite values.

    Raises:
        AdapterFileError: one does; the message names it.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise AdapterFileError(f"{file}: {name} holds NaN or infinite values")


def one_line(error: Exception) -> str:
    """Text of an error as one line that is not too long."""
    return " ".join(str(error).split())[:500]


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; none if there is no such file.

    Raises:
        AdapterFileError: damaged, or no safetensors file.
    """
    if not file.exists():
        return {}
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(f"{file} is damaged or no safetensors file: {error}") from error
