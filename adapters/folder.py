"""The adapter folder: ``config.json`` and, where there are weights, ``model.safetensors``.

Nothing in a folder is executed: the compressor is looked up in the registry by name, its parameters are validated
against the constructor's signature, and weights are read with safetensors only.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from .config_file import CONFIG as CONFIG
from .config_file import FORMAT as FORMAT
from .config_file import check_config as check_config
from .config_file import one_line as one_line
from .config_file import read_config as read_config
from .config_file import read_json as read_json
from .errors import AdapterFileError, ConfigError, FramefoldError
from .origin import Origin
from .registry import get, make
from .weights_file import WEIGHTS as WEIGHTS
from .weights_file import check_finite as check_finite
from .weights_file import outlining
from .weights_file import read_weights as read_weights

if TYPE_CHECKING:
    from .base import Compressor


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
        ConfigError: the class is not the registered one of its name, so that another one would be loaded; ZeRO-3 has
            taken the weights apart; or a field that :func:`~framefold.adapters.config_file.check_config` refuses.
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
    try:
        check_config(json.loads(text), CONFIG)
    except AdapterFileError as error:
        raise ConfigError(f"what is saved could not be loaded again: {error}") from error
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


@dataclass(frozen=True)
class Outline:
    """The compressor of a config before there are weights.

    Attributes:
        model: made on torch's meta device, so that sizes out of a file cost no memory before the weights have them.
        arguments: class, budget and parameters. config: that it is made from. file: of the config, for messages.
    """

    model: Compressor
    arguments: tuple[type[Compressor], Any, dict[str, Any]]
    config: dict[str, Any]
    file: Path | str

    @classmethod
    def of(cls, config: dict[str, Any], file: Path | str, expected: type | None = None, budget: Any = None) -> Outline:
        """Make the outline of a checked config.

        Args:
            file: where it comes from. expected, budget: as for :func:`load_folder`.

        Raises:
            AdapterFileError: no such compressor.
        """
        try:
            kind = get(config["compressor"])
            if expected is not None and not issubclass(kind, expected):
                raise AdapterFileError(f"the adapter is a {kind.name!r}, not a {expected.__name__}")
            arguments = kind, config["budget"] if budget is None else budget, config["params"]
            with outlining():
                model = make(*arguments)
        except AdapterFileError:
            raise
        except FramefoldError as error:
            raise AdapterFileError(f"{file}: {error}") from error
        except (ArithmeticError, RuntimeError, TypeError, ValueError, MemoryError) as error:  # sizes no tensor can have
            raise AdapterFileError(f"{file}: no such {config['compressor']}: {one_line(error)}") from error
        return cls(model, arguments, config, file)

    def fill(self, state: Mapping[str, torch.Tensor], weights_file: Path) -> Compressor:
        """The compressor with its weights.

        Args:
            state: names and tensors, as they were read from a file.

        Raises:
            AdapterFileError: they do not fit, or hold NaN or infinite values.
        """
        wanted = self.model.state_dict()
        try:
            self.model.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise AdapterFileError(f"{weights_file} does not fit {self.file}: {one_line(error)}") from error
        for name, value in state.items():
            if value.is_floating_point() != wanted[name].is_floating_point():
                raise AdapterFileError(f"{weights_file} does not fit {self.file}: {name} is {value.dtype}")
        check_finite(state, weights_file)
        compressor = make(*self.arguments)
        compressor.load_state_dict(state, strict=True)
        compressor.origin = Origin.of(self.config)
        return compressor


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
    outline = Outline.of(read_config(path), path / CONFIG, expected, budget)
    wanted = outline.model.state_dict()
    return outline.fill(read_weights(path / WEIGHTS, wanted, path / CONFIG), path / WEIGHTS)
