"""``model.safetensors`` of an adapter folder: compared with what the config asks for before any of it is read."""

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

MOST_PARTS = 20_000  # parameters and modules of a compressor whose sizes come out of a file

_WIDEST = 8  # bytes of a number


def read_weights(file: Path, wanted: Mapping[str, torch.Tensor] | None = None, config: Any = None) -> dict[str, Any]:
    """The tensors of a safetensors file; none if there is no such file.

    Args:
        wanted: tensors, which may be without memory, of the same names and shapes as those of the file must have. The
            header is compared with them before anything else is read.
        config: file that asks for them, for the message.

    Raises:
        AdapterFileError: damaged, no safetensors file, or with other tensors than the wanted ones.
    """
    if not (file.exists() or file.is_symlink()):
        if wanted:
            raise AdapterFileError(f"{file} does not fit {config}: no such file, and {len(wanted)} tensors are wanted")
        return {}
    try:
        found = shapes_of(file)
        if wanted is not None:
            compare(found, {name: tuple(value.shape) for name, value in wanted.items()}, file, config)
        return load_file(file)
    except AdapterFileError:
        raise
    except Exception as error:  # what damaged bytes lead to in the reader is not all SafetensorError
        raise AdapterFileError(f"{file} is damaged or no safetensors file: {one_line(error)}") from error


def compare(found: Mapping[str, Any], wanted: Mapping[str, Any], file: Path, config: Any) -> None:
    """Refuse tensors of other names or shapes than the wanted ones.

    Raises:
        AdapterFileError: they are others; the message names the first.
    """
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            has, needs = (f"{x[name]}" if name in x else "not there" for x in (found, wanted))
            raise AdapterFileError(f"{file} does not fit {config}: {name[:100]!r} is {has[:100]}, must be {needs}")


def check_finite(state: Mapping[str, torch.Tensor], file: Path) -> None:
    """Refuse tensors that hold NaN or infinite values.

    Raises:
        AdapterFileError: one does; the message names it.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise AdapterFileError(f"{file}: {' '.join(name.split())[:200]} holds NaN or infinite values")


def largest_file(wanted: Mapping[str, torch.Tensor]) -> int:
    """Bytes that a file with these tensors has at most, whatever the type of its numbers."""
    return MAX_HEADER + sum(value.numel() for value in wanted.values()) * _WIDEST


@contextmanager
def outlining() -> Iterator[None]:
    """Make modules without memory, and not too many of them: their sizes and numbers come out of a file.

    Raises:
        ConfigError: more than :data:`MOST_PARTS`.
    """
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > MOST_PARTS:
            raise ConfigError(f"more than {MOST_PARTS} modules and parameters")

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


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes out of the header; the library compares it with the size of the file.

    Raises:
        SafetensorError: no such file.
    """
    if not file.is_file():
        raise SafetensorError("not a regular file")
    with open(file, "rb") as start:
        header = int.from_bytes(start.read(8), "little")
    if header > min(MAX_HEADER, file.stat().st_size):
        raise SafetensorError(f"a header of {header} bytes in a file of {file.stat().st_size}")
    with safe_open(file, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
