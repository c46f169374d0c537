"""What of a compressor can be saved: a new one with the same parameters must have the same weights and the same ties.

A loaded compressor is a new one whose weights are overwritten. So weights that are one tensor under two names are saved
once, and the constructor ties them again. Everything that this cannot restore is refused, by training before its first
step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from framefold.adapters.core.registry import compressor_class, create_compressor
from framefold.errors import ConfigError, FramefoldError
from framefold.messages import one_line, short

from .weights import init_empty_weights


def tied_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of tensors that are the same memory as an earlier one, with the name of that one.

    Args:
        state: a state dict; its tensors may be on the meta device.
    """
    first: dict[Any, str] = {}
    tied = {}
    for name, value in state.items():
        if value.numel() == 0:
            continue
        key = _storage(value), value.storage_offset(), value.shape, value.stride(), value.dtype
        if key in first:
            tied[name] = first[key]
        first.setdefault(key, name)
    return tied


def untied_state(compressor: Any) -> dict[str, Tensor]:
    """Return the state dict with tied weights once, as contiguous tensors on the CPU.

    Raises:
        ConfigError: tensors that a new compressor ties have different values.
    """
    state = compressor.state_dict()
    tied = tied_names(_new(compressor).state_dict())
    for name, other in tied.items():
        if not torch.equal(state[name], state[other]):
            raise ConfigError(f"{name} and {other} are one tensor in a new compressor, but have different values here")
    return {name: value.detach().contiguous().cpu() for name, value in state.items() if name not in tied}


def check_saveable(compressor: Any, host: nn.Module | None = None) -> None:
    """Refuse a compressor that could not be loaded again.

    Args:
        compressor: the compressor, with its weights.
        host: also refuse weights that are weights of this host.

    Raises:
        ConfigError: it has no name of its own, parameters that JSON cannot hold, or weights that a new compressor with
            the same parameters does not have or does not tie in the same way; the message names the first problem.
    """
    title, name = type(compressor).__name__, getattr(compressor, "name", None)
    if name is None:
        raise ConfigError(f"{title} must define its own name, by which it is saved and loaded: name = ... in the class")
    if compressor_class(name) is not type(compressor):
        raise ConfigError(f"{title} must define its own name: {name!r} is registered for another class")
    state = compressor.state_dict()
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"{title}: {key} of its state_dict() is {kind}, which cannot be saved as safetensors")
    new = _new(compressor).state_dict()
    for key in sorted(state.keys() | new.keys()):
        own, other = (tuple(one[key].shape) if key in one else "missing" for one in (state, new))
        if own != other:
            raise ConfigError(
                f"{title} could not be loaded again: {key} is {own} here and {other} in a new compressor with its "
                f"params {short(compressor.params())}: create all weights in the constructor or in materialize(), and "
                "store what determines their sizes as parameters of the constructor"
            )
    _check_ties(title, compressor, new)
    _check_views(title, state, new)
    if host is not None:
        check_separate(compressor, host)


def check_separate(compressor: nn.Module, host: nn.Module) -> None:
    """Refuse a compressor with weights that are weights of the host or of its LoRA.

    Raises:
        ConfigError: a weight shares memory with the host; it would be saved, trained and loaded apart from it.
    """
    attached = tuple(f"{name}." for name, module in host.named_modules() if module is compressor)
    held = ((name, value) for name, value in _tensors(host) if not attached or not name.startswith(attached))
    owners = {_storage(value): name for name, value in held if value.numel()}
    for name, value in _tensors(compressor):
        owner = owners.get(_storage(value)) if value.numel() else None
        if owner is not None:
            raise ConfigError(
                f"{name} of the compressor is the memory of {owner} of the host, which is not saved with it: copy it "
                "(tensor.clone())"
            )


def _new(compressor: Any) -> Any:
    """Return a new compressor with the parameters of this one, on the meta device.

    Raises:
        ConfigError: there are no such parameters, or JSON cannot hold them.
    """
    title = type(compressor).__name__
    try:
        params = compressor.params()
    except AttributeError as error:
        raise ConfigError(f"{title} must store each parameter of its constructor as an attribute: {error}") from error
    for key, value in params.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{title}: the parameter {key} cannot be saved as JSON: {one_line(error)}") from error
    try:
        with init_empty_weights():
            return create_compressor(type(compressor), compressor.budget, json.loads(json.dumps(params)))
    except FramefoldError as error:
        raise ConfigError(f"{title} could not be loaded again: {error}") from error
    except Exception as error:  # a constructor may raise anything
        text = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"{title} could not be loaded again: with its params {short(params)}, {text}") from error


def _check_ties(title: str, compressor: Any, new: Mapping[str, Tensor]) -> None:
    """Refuse weights that are tied otherwise than by the constructor, or that a move to another device separates."""
    tied, again, objects = tied_names(compressor.state_dict()), tied_names(new), dict(_tensors(compressor))
    for name, other in tied.items():
        if name not in again:
            raise ConfigError(
                f"{title} could not be loaded again: {name} is the same tensor as {other}, but not in a new compressor "
                "with its params: tie them in the constructor or in materialize()"
            )
        if objects.get(name) is not objects.get(other):
            raise ConfigError(
                f"{title}: {name} and {other} are two tensors in one memory, which a move to another device separates: "
                "register one tensor under both names, or a copy (tensor.clone())"
            )


def _check_views(title: str, state: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Refuse weights whose memory overlaps without being the same, or that repeat an element."""
    for tensors in (state, new):
        names = tied_names(tensors)
        spans = sorted((*_span(value), name) for name, value in tensors.items() if value.numel() and name not in names)
        for (storage, _, end, name), (next_storage, start, _, other) in zip(spans, spans[1:], strict=False):
            if storage == next_storage and start < end:
                raise ConfigError(
                    f"{title}: {other} is a view of the memory of {name}, which loading cannot restore: register a "
                    "copy (tensor.clone()), or compute it where it is used"
                )
        for name, value in tensors.items():
            if any(step == 0 and size > 1 for step, size in zip(value.stride(), value.shape, strict=True)):
                raise ConfigError(f"{title}: {name} is an expanded tensor, which cannot be loaded: register a copy")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _storage(value: Tensor) -> int:
    return value.untyped_storage()._cdata


def _span(value: Tensor) -> tuple[int, int, int]:
    """Return the storage of a tensor, and the first byte and the end of its elements in it."""
    last = sum((size - 1) * int(step) for size, step in zip(value.shape, value.stride(), strict=True))
    start = int(value.storage_offset()) * value.element_size()
    return _storage(value), start, start + (last + 1) * value.element_size()
