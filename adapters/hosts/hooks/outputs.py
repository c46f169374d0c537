"""Outputs of a host by name: hosts, trainers and kernels return loss and logits in different places, or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor


def read_outputs(output: Any, columns: int) -> dict[str, Any]:
    """Return the values of an output by name.

    Args:
        output: what the host's forward returned.
        columns: length of the prompt, by which the logits of a tuple are found.
    """
    if isinstance(output, Mapping):
        return {name: output[name] for name in output}
    if isinstance(output, tuple):
        return {name: output[index] for name, index in _tuple_places(output, columns).items()}
    if _is_record(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return dict(getattr(output, "__dict__", {}))


def write_outputs(output: Any, columns: int, changes: Mapping[str, Any]) -> Any:
    """Return the output with other values under names that :func:`read_outputs` returned."""
    if isinstance(output, tuple):
        places = _tuple_places(output, columns)
        values = list(output)
        for name, value in changes.items():
            values[places[name]] = value
        return type(output)(*values) if hasattr(output, "_fields") else tuple(values)
    if _is_record(output):  # which may be frozen
        return dataclasses.replace(output, **changes) if changes else output
    for name, value in changes.items():
        if isinstance(output, MutableMapping):
            output[name] = value
        else:
            setattr(output, name, value)
    return output


def _is_record(output: Any) -> bool:
    """Return whether an output is a data class, but not one of transformers, which are dictionaries too."""
    return dataclasses.is_dataclass(output) and not isinstance(output, (type, Mapping))


def _tuple_places(output: tuple[Any, ...], columns: int) -> dict[str, int]:
    """Return the index of each value of a tuple by name; a plain tuple has the loss in front of its logits."""
    if (fields := getattr(output, "_fields", None)) is not None:
        return {name: index for index, name in enumerate(fields)}
    places = {str(index): index for index in range(len(output))}
    if output and isinstance(output[0], Tensor) and output[0].numel() == 1:
        places["loss"] = places.pop("0")
    for index, value in enumerate(output[:2]):
        if isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] == columns:
            places["logits"] = places.pop(str(index))
            break
    return places
