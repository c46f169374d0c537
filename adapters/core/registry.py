"""The registry: what contract tests, the command line and the ablation iterate.

A compressor registers itself by having a ``name``. Those of other packages are found through the entry point group
``framefold.compressors``; a configuration of your own may also name one by class path (``my_package.my_module.Mine``).
Names joined by "+" are a chain, whose class is made when it is asked for.
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
JOINT = "+"  # between the stages of a chain

# Values are subclasses of framefold.Compressor; it lies in a folder above this one.
_CLASSES: dict[str, type[Any]] = {}
_chain_factories: list[Callable[[str], type[Any]]] = []


def register(cls: type[Any]) -> None:
    """Add a class under its ``name``.

    Raises:
        ConfigError: another class has that name, or it reads as a chain.
    """
    if JOINT in cls.name:
        raise ConfigError(f"{cls.name!r} cannot be the name of a compressor: {JOINT!r} joins the stages of a chain")
    other = _CLASSES.get(cls.name)
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(f"two compressors are called {cls.name!r}: {other.__module__} and {cls.__module__}")
    _CLASSES[cls.name] = cls


def register_chain_factory(factory: Callable[[str], type[Any]]) -> None:
    """Set the function that makes the class of a chain from its name; the latest one counts."""
    _chain_factories[:] = [factory]


def list_compressors(trainable: bool | None = None) -> list[str]:
    """Names of all registered compressors, sorted.

    Args:
        trainable: only those with (True) or without (False) parameters to learn.
    """
    _load_plugins()
    return sorted(name for name, cls in _CLASSES.items() if trainable is None or cls.trainable == trainable)


def get(name: str) -> type[Any]:
    """The Compressor class registered under a name; of a chain (``uniform+st_simdiff``), the one made for it.

    Raises:
        UnknownCompressorError: no such name; the message holds the nearest ones.
    """
    if isinstance(name, str) and JOINT in name:
        return _chain_factories[0](name)
    if name not in list_compressors():
        raise UnknownCompressorError(f"no compressor is called {short(name)}{nearest(name, _CLASSES)}")
    return _CLASSES[name]


def make(cls: type[C], budget: float | int | str, params: Mapping[str, Any]) -> C:
    """Make a compressor of a class; params may have any names, so this is the way for what a file holds.

    Raises:
        ConfigError, BudgetError: as :func:`build`.
    """
    return cls(budget=budget, **check_params(cls, params))  # type: ignore[call-arg]


@functools.cache
def _load_plugins() -> None:
    for entry in entry_points(group="framefold.compressors"):
        try:
            entry.load()
        except Exception as error:  # a broken plug-in of somebody else must not take framefold down
            warnings.warn(f"the compressor plug-in {entry.name!r} ({entry.value}) failed: {error}", stacklevel=2)
