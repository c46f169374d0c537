"""Registry of compressors by name, used by contract tests, the command line and the ablation.

A compressor registers itself by defining ``name``. Compressors of other packages are loaded from the entry point group
``framefold.compressors``. A configuration may also give a class path (``my_package.my_module.MyCompressor``).
Names joined by "+" denote a chain, whose class is created on demand.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from framefold.errors import ConfigError, UnknownCompressorError
from framefold.messages import nearest, short

from .parameters import check_params

C = TypeVar("C")
CHAIN_SEPARATOR = "+"

# Values are subclasses of Compressor, which is defined above this layer.
_CLASSES: dict[str, type[Any]] = {}
_chain_factories: list[Callable[[str], type[Any]]] = []


def register_class(cls: type[Any]) -> None:
    """Register a compressor class under its ``name``.

    Raises:
        ConfigError: another class has that name, or the name contains the separator of chains.
    """
    if CHAIN_SEPARATOR in cls.name:
        raise ConfigError(
            f"{cls.name!r} cannot be the name of a compressor: {CHAIN_SEPARATOR!r} joins the stages of a chain"
        )
    other = _CLASSES.get(cls.name)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(f"two compressors are called {cls.name!r}: {other.__module__} and {cls.__module__}")
    _CLASSES[cls.name] = cls


def register_chain_factory(factory: Callable[[str], type[Any]]) -> None:
    """Set the function that creates the class of a chain from its name, replacing any earlier one."""
    _chain_factories[:] = [factory]


def list_compressors(trainable: bool | None = None) -> list[str]:
    """Return the names of all registered compressors, sorted.

    Args:
        trainable: restrict to compressors with (True) or without (False) learned parameters.
    """
    _load_plugins()
    return sorted(name for name, cls in _CLASSES.items() if trainable is None or cls.trainable == trainable)


def compressor_class(name: str) -> type[Any]:
    """Return the Compressor class of a registered name or of a chain of names (``uniform+st_simdiff``).

    Raises:
        UnknownCompressorError: no such name; the message lists the most similar ones.
    """
    if isinstance(name, str) and CHAIN_SEPARATOR in name:
        return _chain_factories[0](name)
    if name not in list_compressors():
        raise UnknownCompressorError(f"no compressor is called {short(name)}{nearest(name, _CLASSES)}")
    return _CLASSES[name]


def create_compressor(cls: type[C], budget: float | int | str, params: Mapping[str, Any]) -> C:
    """Create a compressor of a class from parameters that have not been validated, such as those of a file.

    Raises:
        ConfigError: a parameter is unknown, of a wrong type or out of range.
        BudgetError: the budget is out of range.
    """
    return cls(budget=budget, **check_params(cls, params))  # type: ignore[call-arg]


@functools.cache
def _load_plugins() -> None:
    for entry in entry_points(group="framefold.compressors"):
        try:
            entry.load()
        except Exception as error:  # a broken plug-in of another package must not make framefold unusable
            warnings.warn(f"the compressor plug-in {entry.name!r} ({entry.value}) failed: {error}", stacklevel=2)
