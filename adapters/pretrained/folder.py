"""The adapter folder: ``config.json`` and, where there are weights, ``model.safetensors``.

Nothing in a folder is executed: the compressor is looked up in the registry by name, its parameters are validated
against the constructor's signature, and weights are read with safetensors only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors.torch import save_file

from framefold.adapters.core.registry import get, make
from framefold.errors import AdapterFileError, ConfigError, FramefoldError
from framefold.files import replace_files
from framefold.messages import one_line

from .base_model import BaseModel
from .config import CONFIG, FORMAT, check_config, read_config
from .weights import WEIGHTS, check_finite, outlining, read_weights


class SavedCompressor(Protocol):
    """What saving and loading need of a compressor: its name, its settings and its tensors."""

    name: ClassVar[str]
    budget: Any
    base_model: BaseModel

    def params(self) -> dict[str, Any]:
        """Constructor parameters other than the budget."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """As of ``nn.Module``."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """As of ``nn.Module``."""

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As of ``nn.Module``."""


def save_folder(
    compressor: SavedCompressor,
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
            taken the weights apart; or a field that :func:`~framefold.adapters.pretrained.config.check_config` refuses.
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


def describe(compressor: SavedCompressor) -> dict[str, Any]:
    """The fields of a config that say which compressor it is."""
    return {
        "framefold_format": FORMAT,
        "compressor": compressor.name,
        "budget": compressor.budget,
        "params": compressor.params(),
    }


@dataclass(frozen=True)
class Outline:
    """The compressor of a config before there are weights.

    Attributes:
        model: made on torch's meta device, so that sizes out of a file cost no memory before the weights have them.
        arguments: class, budget and parameters. config: that it is made from. file: of the config, for messages.
    """

    model: SavedCompressor
    arguments: tuple[type[Any], Any, dict[str, Any]]
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
            arguments = kind, config["budget"] if budget is None else budget, kind.upgrade_params(config["params"])
            with outlining():
                model = make(*arguments)
        except AdapterFileError:
            raise
        except FramefoldError as error:
            raise AdapterFileError(f"{file}: {error}") from error
        except (ArithmeticError, RuntimeError, TypeError, ValueError, MemoryError) as error:  # sizes no tensor can have
            raise AdapterFileError(f"{file}: no such {config['compressor']}: {one_line(error)}") from error
        return cls(model, arguments, config, file)

    def fill(self, state: Mapping[str, torch.Tensor], weights_file: Path) -> Any:
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
        compressor.base_model = BaseModel.of(self.config)
        return compressor


def load_folder(
    folder: str | os.PathLike[str], expected: type | None = None, budget: float | int | str | None = None
) -> Any:
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
