"""The registry: what contract tests, the command line and the ablation iterate.

A compressor registers itself by having a ``name``. Those of other packages are found through the entry point group
``framefold.compressors``; a configuration of your own may also name one by class path (``my_package.my_module.Mine``).
Names joined by "+" are a chain, whose class is made when it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, UnknownCompressorError
from .params import check_params, nearest, short

if TYPE_CHECKING:
    from .base import Compressor

JOINT = "+"  # between the stages of a chain
_CLASSES: dict[str, type[Compressor]] = {}


def register(cls: type[Compressor]) -> None:
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


def list_compressors(trainable: bool | None = None) -> list[str]:
    """Names of all registered compressors, sorted.

    Args:
        trainable: only those with (True) or without (False) parameters to learn.
    """
    _load_plugins()
    return sorted(name for name, cls in _CLASSES.items() if trainable is None or cls.trainable == trainable)


def get(name: str) -> type[Compressor]:
    """The class registered under a name; of a chain (``uniform+st_simdiff``), the one made for it.

    Raises:
        UnknownCompressorError: no such name; the message holds the nearest ones.
    """
    if isinstance(name, str) and JOINT in name:
        from .chain import chain_class

        return chain_class(name)
    if name not in list_compressors():
        raise UnknownCompressorError(f"no compressor is called {short(name)}{nearest(name, _CLASSES)}")
    return _CLASSES[name]


def build(name: str, budget: float | int | str = 0.25, **params: Any) -> Compressor:
    """Make a compressor.

    Args:
        name: a registered name; several of them joined by "+", which run in that order
            (:class:`~framefold.adapters.chain.Chain`); or the class path of one of your own.
        budget: retention ratio (float in (0, 1]) or number of tokens per video (int).
        params: the compressor's own parameters; for a chain, a dict of parameters for each of its stages
            (``build("pool+sttm", 0.1, sttm={"tau_s": 0.8})``).

    Raises:
        UnknownCompressorError: no such name; the message holds the nearest ones.
        ConfigError: unknown parameter, or one of a wrong type or out of range.
        BudgetError: budget out of range.
    """
    return make(_import_class(name) if _is_class_path(name) else get(name), budget, params)


def make(cls: type[Compressor], budget: float | int | str, params: Mapping[str, Any]) -> Compressor:
    """Make a compressor of a class; params may have any names, so this is the way for what a file holds.

    Raises:
        ConfigError, BudgetError: as :func:`build`.
    """
    return cls(budget=budget, **check_params(cls, params))


def _is_class_path(name: Any) -> bool:
    return isinstance(name, str) and "." in name and JOINT not in name


def _import_class(path: str) -> type[Compressor]:
    from .base import Compressor

    module, _, attribute = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # somebody's module may fail in any way
        raise UnknownCompressorError(f"cannot import the compressor {path!r}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Compressor)):
        raise UnknownCompressorError(f"{path!r} is not a subclass of framefold.Compressor")
    return cls


@functools.cache
def _load_plugins() -> None:
    for entry in entry_points(group="framefold.compressors"):
        try:
            entry.load()
        except Exception as error:  # a broken plug-in of somebody else must not take framefold down
            warnings.warn(f"the compressor plug-in {entry.name!r} ({entry.value}) failed: {error}", stacklevel=2)
