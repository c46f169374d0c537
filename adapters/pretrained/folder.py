"""Saving and loading adapter folders: ``config.json`` and, if there are weights, ``model.safetensors``.

Nothing in a folder is executed. The compressor is looked up in the registry by name, its parameters are validated
against the signature of the constructor, and weights are read with safetensors only.
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

from framefold.adapters.core.registry import compressor_class, create_compressor, foreign_classes
from framefold.errors import AdapterFileError, ConfigError, FramefoldError
from framefold.files import replace_files
from framefold.messages import one_line

from .base_model import BaseModel
from .config import CONFIG, FORMAT, check_config, read_config
from .saveable import check_saveable, tied_names, untied_state
from .weights import WEIGHTS, check_finite, init_empty_weights, read_weights


class SavedCompressor(Protocol):
    """The part of :class:`~framefold.adapters.base.compressor.Compressor` that saving and loading need."""

    name: ClassVar[str]
    budget: Any
    base_model: BaseModel

    def params(self) -> dict[str, Any]:
        """Return the constructor parameters other than the budget."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """See ``nn.Module``."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """See ``nn.Module``."""

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], strict: bool = True, assign: bool = False) -> Any:
        """See ``nn.Module``."""


def save_folder(
    compressor: SavedCompressor,
    folder: str | os.PathLike[str],
    fields: dict[str, Any],
    more: dict[str, Callable[[Path], Any]] | None = None,
) -> None:
    """Write an adapter folder atomically: files are renamed after all have been written, the config last.

    Args:
        compressor: the compressor to save.
        folder: destination; created if it does not exist.
        fields: further fields of the config, such as the base model.
        more: further files by relative path, each with a function that writes it to a given path.

    Raises:
        ConfigError: the compressor could not be loaded again, see
            :func:`~framefold.adapters.pretrained.saveable.check_saveable`; ZeRO-3 has partitioned the weights; or a
            field is invalid.
        OSError: a file cannot be written; existing files stay complete.
    """
    if any(getattr(parameter, "ds_numel", 0) > parameter.numel() for parameter in compressor.parameters()):
        raise ConfigError(
            "the weights are partitioned over processes (ZeRO-3): save inside of deepspeed.zero.GatheredParameters("
            "list(compressor.parameters()))"
        )
    check_saveable(compressor)
    path = Path(folder)
    text = json.dumps(fields | compressor_fields(compressor), indent=2) + "\n"
    try:
        check_config(json.loads(text), CONFIG)
    except AdapterFileError as error:
        raise ConfigError(f"the adapter could not be loaded again: {error}") from error
    state = untied_state(compressor)
    files: dict[Path, Callable[[Path], Any]] = {path / CONFIG: lambda temporary: temporary.write_text(text)}
    if state:
        files = {path / WEIGHTS: lambda temporary: save_file(state, temporary), **files}
    files = {path / name: write for name, write in (more or {}).items()} | files
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    replace_files(files)
    if not state:
        (path / WEIGHTS).unlink(missing_ok=True)


def compressor_fields(compressor: SavedCompressor) -> dict[str, Any]:
    """Return the fields of a config that describe the compressor."""
    return {
        "framefold_format": FORMAT,
        "compressor": compressor.name,
        "budget": compressor.budget,
        "params": compressor.params(),
        **({"compressor_classes": classes} if (classes := foreign_classes(type(compressor))) else {}),
    }


@dataclass(frozen=True)
class UnloadedCompressor:
    """A compressor of a validated config whose weights have not been loaded.

    Attributes:
        model: the compressor on the meta device; sizes in a file cost no memory until the weights confirm them.
        arguments: class, budget and parameters of the compressor.
        config: the config.
        file: name of the config file, for messages.
    """

    model: SavedCompressor
    arguments: tuple[type[Any], Any, dict[str, Any]]
    config: dict[str, Any]
    file: Path | str

    @classmethod
    def from_config(
        cls, config: dict[str, Any], file: Path | str, expected: type | None = None, budget: Any = None
    ) -> UnloadedCompressor:
        """Create the compressor of a validated config on the meta device.

        Args:
            config: the config.
            file: name of the config file, for messages.
            expected: see :func:`load_folder`.
            budget: see :func:`load_folder`.

        Raises:
            AdapterFileError: there is no such compressor, or it cannot have these parameters.
        """
        try:
            kind = compressor_class(config["compressor"], config.get("compressor_classes"))
            if expected is not None and not issubclass(kind, expected):
                raise AdapterFileError(f"the adapter is a {kind.name!r}, not a {expected.__name__}")
            arguments = kind, config["budget"] if budget is None else budget, kind.upgrade_params(config["params"])
            with init_empty_weights():
                model = create_compressor(*arguments)
        except AdapterFileError:
            raise
        except FramefoldError as error:
            raise AdapterFileError(f"{file}: {error}") from error
        except (ArithmeticError, RuntimeError, TypeError, ValueError, MemoryError) as error:  # impossible tensor sizes
            raise AdapterFileError(
                f"{file}: cannot create a {config['compressor']!r} with these parameters: {one_line(error)}"
            ) from error
        return cls(model, arguments, config, file)

    def saved_tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors, on the meta device, that the weights file must have: tied weights occur once."""
        tensors = self.model.state_dict()
        return {name: value for name, value in tensors.items() if name not in tied_names(tensors)}

    def _with_tied(self, state: Mapping[str, torch.Tensor], weights_file: Path) -> dict[str, torch.Tensor]:
        """Return weights with all names of tied ones; PEFT's files have them already."""
        tied = tied_names(self.model.state_dict())
        for name, other in tied.items():
            if name in state and other in state and not torch.equal(state[name], state[other]):
                raise AdapterFileError(f"{weights_file}: {name} and {other} are one tensor, but have different values")
        return {**{name: state[other] for name, other in tied.items() if other in state}, **state}

    def load_weights(self, state: Mapping[str, torch.Tensor], weights_file: Path) -> Any:
        """Return the compressor with its weights, in eval mode.

        Args:
            state: names and tensors, as read from a file.
            weights_file: name of that file, for messages.

        Raises:
            AdapterFileError: the tensors do not match the config, or contain NaN or infinite values.
        """
        expected = self.model.state_dict()
        state = self._with_tied(state, weights_file)
        try:
            self.model.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise AdapterFileError(f"{weights_file} does not fit {self.file}: {one_line(error)}") from error
        for name, value in state.items():
            if value.is_floating_point() != expected[name].is_floating_point():
                raise AdapterFileError(f"{weights_file} does not fit {self.file}: {name} is {value.dtype}")
        check_finite(state, weights_file)
        compressor = create_compressor(*self.arguments)
        compressor.load_state_dict(state, strict=True)
        compressor.base_model = BaseModel.from_config(self.config)
        return compressor.eval()


def load_folder(
    folder: str | os.PathLike[str], expected: type | None = None, budget: float | int | str | None = None
) -> Any:
    """Load an adapter folder; the compressor is in eval mode.

    Args:
        folder: the adapter folder.
        expected: class or base class that the adapter must have.
        budget: overrides the saved budget.

    Raises:
        AdapterFileError: no such folder, a damaged file, a newer format, or weights that do not match the config.
    """
    path = Path(folder)
    unloaded = UnloadedCompressor.from_config(read_config(path), path / CONFIG, expected, budget)
    state = read_weights(path / WEIGHTS, unloaded.saved_tensors(), path / CONFIG)
    return unloaded.load_weights(state, path / WEIGHTS)
