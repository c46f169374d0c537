"""Reading ``model.safetensors`` of an adapter folder, after comparing its header with the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.nn.modules import module as nn_module

from framefold.errors import AdapterFileError, ConfigError
from framefold.messages import one_line

WEIGHTS = "model.safetensors"

MAX_HEADER = 10_000_000  # bytes

MAX_PARTS = 20_000  # modules and parameters of a compressor whose config comes from a file

_MAX_ITEM_SIZE = 8  # bytes per number of the widest dtype


def read_weights(file: Path, expected: Mapping[str, torch.Tensor] | None = None, config: Any = None) -> dict[str, Any]:
    """Read the tensors of a safetensors file; a file that does not exist contains none.

    Args:
        file: the file.
        expected: tensors, possibly on the meta device, whose names and shapes the file must have. The header is
            compared with them before tensors are read.
        config: name of the file that determines them, for messages.

    Raises:
        AdapterFileError: the file is damaged, not a safetensors file, or has other tensors than expected.
    """
    if not (file.exists() or file.is_symlink()):
        if expected:
            raise AdapterFileError(
                f"{file} does not fit {config}: no such file, but {len(expected)} tensors are needed"
            )
        return {}
    try:
        shapes = read_shapes(file)
        if expected is not None:
            check_shapes(shapes, {name: tuple(value.shape) for name, value in expected.items()}, file, config)
        return load_file(file)
    except AdapterFileError:
        raise
    except Exception as error:  # damaged bytes may raise other errors than SafetensorError
        raise AdapterFileError(f"{file} is damaged or not a safetensors file: {one_line(error)}") from error


def check_shapes(shapes: Mapping[str, Any], expected: Mapping[str, Any], file: Path, config: Any) -> None:
    """Refuse tensors with other names or shapes than expected.

    Args:
        shapes: name and shape of each tensor of the file.
        expected: name and shape of each tensor that the config needs.
        file: name of the file, for messages.
        config: name of the config file, for messages.

    Raises:
        AdapterFileError: a tensor differs; the message names the first one.
    """
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            has, needs = (f"{x[name]}" if name in x else "missing" for x in (shapes, expected))
            raise AdapterFileError(f"{file} does not fit {config}: {name[:100]!r} is {has[:100]}, must be {needs}")


def check_finite(state: Mapping[str, torch.Tensor], file: Path) -> None:
    """Refuse tensors that contain NaN or infinite values.

    Raises:
        AdapterFileError: a tensor does; the message names it.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise AdapterFileError(f"{file}: {' '.join(name.split())[:200]} contains NaN or infinite values")


def max_file_size(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the maximum size in bytes of a file with these tensors, in any dtype."""
    return MAX_HEADER + sum(value.numel() for value in tensors.values()) * _MAX_ITEM_SIZE


@contextmanager
def init_empty_weights() -> Iterator[None]:
    """Create modules on the meta device, and limit their number, because sizes in a file are not trusted.

    Raises:
        ConfigError: more than :data:`MAX_PARTS` modules and parameters are created.
    """
    created = 0

    def count(*_: Any) -> None:
        nonlocal created
        created += 1
        if created > MAX_PARTS:
            raise ConfigError(f"more than {MAX_PARTS} modules and parameters")

    hooks = [
        nn_module.register_module_module_registration_hook(count),
        nn_module.register_module_parameter_registration_hook(count),
    ]
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes from the header of a safetensors file; the library checks it against the file size.

    Raises:
        SafetensorError: not a regular file, or a damaged header.
    """
    if not file.is_file():
        raise SafetensorError("not a regular file")
    with open(file, "rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    if header > min(MAX_HEADER, file.stat().st_size):
        raise SafetensorError(f"a header of {header} bytes in a file of {file.stat().st_size} bytes")
    with safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
