"""Registry of compressors by name, used by contract tests, the command line and the ablation.

A compressor registers itself by defining ``name``. Compressors of other packages are loaded from the entry point group
``framefold.compressors`` and from the modules that ``framefold --import`` names. A configuration may also give a class
path (``my_package.my_module.MyCompressor``). Names joined by "+" denote a chain, whose class is created on demand.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from framefold.errors import ConfigError, UnknownCompressorError
from framefold.messages import short

from .parameters import check_params
from .plugins import GROUP, PluginProblem, class_path, defines_nothing, explain_missing, import_failed

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


def compressor_class(name: str, class_paths: Mapping[str, str] | None = None) -> type[Any]:
    """Return the Compressor class of a registered name or of a chain of names (``uniform+st_simdiff``).

    Args:
        name: registered name, or names joined by "+".
        class_paths: names and class paths as a file records them (:func:`foreign_classes`), for the message.

    Raises:
        UnknownCompressorError: no such name. The message lists the most similar ones, or states which package provides
            the compressor and why it is not available.
    """
    if isinstance(name, str) and CHAIN_SEPARATOR in name:
        for stage in name.split(CHAIN_SEPARATOR) if class_paths else ():
            compressor_class(stage, class_paths)
        return _chain_factories[0](name)
    known = list_compressors()
    if name not in known:
        hint = explain_missing(name, (class_paths or {}).get(name), known, _load_plugins())
        raise UnknownCompressorError(f"no compressor is called {short(name)}{hint}")
    return _CLASSES[name]


def foreign_classes(cls: type[Any]) -> dict[str, str]:
    """Return name and class path of a compressor, or of each stage of a chain, that is defined outside of framefold.

    Classes without a name are not registered and cannot be found by it.
    """
    stages = getattr(cls, "stage_classes", None) or (cls,)
    named = [stage for stage in stages if getattr(stage, "name", None)]
    return {stage.name: class_path(stage) for stage in named if stage.__module__.partition(".")[0] != "framefold"}


def imported_name(path: str) -> str:
    """Return the registered name of a class path if its module has been imported, otherwise the path itself."""
    module, _, attribute = path.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    return next((name for name, cls in _CLASSES.items() if cls is found), path)


def create_compressor(cls: type[C], budget: float | int | str, params: Mapping[str, Any]) -> C:
    """Create a compressor of a class from parameters that have not been validated, such as those of a file.

    Raises:
        ConfigError: a parameter is unknown, of a wrong type or out of range.
        BudgetError: the budget is out of range.
    """
    return cls(budget=budget, **check_params(cls, params))  # type: ignore[call-arg]


@functools.cache
def _load_plugins() -> tuple[PluginProblem, ...]:
    """Import all plug-ins, once; return the problems of those that cannot be used."""
    given = filter(None, os.environ.get("FRAMEFOLD_IMPORT", "").split(","))  # set by ``framefold --import``
    problems = []
    for entry in [*entry_points(group=GROUP), *(EntryPoint(module, module, "--import") for module in given)]:
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # a broken plug-in of another package must not make framefold unusable
            problems.append(import_failed(entry, error))
            warnings.warn(problems[-1].text, stacklevel=3)
            continue
        if entry.name not in _CLASSES:
            problems.append(defines_nothing(entry))
    return tuple(problems)
