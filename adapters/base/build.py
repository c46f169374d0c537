"""Building compressors from a registered name, a chain of names, a class path, or an adapter folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.registry import CHAIN_SEPARATOR, compressor_class, create_compressor
from framefold.adapters.pretrained.config import CONFIG
from framefold.adapters.pretrained.folder import load_folder
from framefold.errors import ConfigError, UnknownCompressorError
from framefold.messages import short

from . import chain as chain  # importing it registers the factory for names joined by "+"
from .compressor import Compressor


def build(name: str, budget: float | int | str = 0.25, **params: Any) -> Compressor:
    """Create a compressor, in training mode.

    Args:
        name: a registered name; the class path of a custom compressor; or several of them joined by "+", which run in
            that order (:class:`~framefold.adapters.base.chain.Chain`).
        budget: retention ratio (float in (0, 1]) or number of tokens per video (int).
        params: the parameters of the compressor; for a chain, a dict of parameters for each stage
            (``build("pool+sttm", 0.1, sttm={"tau_s": 0.8})``).

    Raises:
        UnknownCompressorError: no such name; the message lists the most similar ones.
        ConfigError: a parameter is unknown, of a wrong type or out of range.
        BudgetError: the budget is out of range.
    """
    return create_compressor(_find_class(name), budget, params)


def load_or_build(name: str, budget: Budget | None, params: dict[str, Any] | None = None) -> Compressor:
    """Load a compressor from an adapter folder, or build it from a registered name and parameters; in eval mode.

    Args:
        name: adapter folder or registered name.
        budget: None keeps the saved or the default budget.
        params: parameters; only for a registered name.

    Raises:
        ConfigError: parameters were given for an adapter folder, or are invalid.
    """
    if "/" in name or (Path(name) / CONFIG).is_file():
        if params:
            raise ConfigError(f"{name} is an adapter folder and has its own parameters: pass none")
        return load_folder(name, budget=budget)
    return (build(name, **params or {}) if budget is None else build(name, budget, **params or {})).eval()


def registered_name(name: str) -> str:
    """Return the registered name of a compressor that is given as a name, a class path, or a chain of both.

    Class paths are imported, so the text must come from the user and not from a file.

    Raises:
        UnknownCompressorError: no such name, or the class path cannot be imported.
        ConfigError: the class has no name of its own.
    """
    cls = _find_class(name)
    if compressor_class(getattr(cls, "name", "")) is not cls:
        raise ConfigError(f"{name} needs a name of its own: define name = ... in the class")
    return str(cls.name)


def _find_class(name: str) -> type[Compressor]:
    stages = name.split(CHAIN_SEPARATOR) if isinstance(name, str) else []
    if len(stages) == 1 and "." in name:
        return _import_class(name)
    if any("." in stage for stage in stages):
        name = CHAIN_SEPARATOR.join(_stage_name(stage) if "." in stage else stage for stage in stages)
    return compressor_class(name)


def _stage_name(path: str) -> str:
    try:
        return registered_name(path)
    except UnknownCompressorError as error:
        raise UnknownCompressorError(f"no compressor is called {short(path)}: {error}") from error


def _import_class(path: str) -> type[Compressor]:
    module, _, attribute = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a custom module may raise anything
        advice = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            advice = f"; install {error.name}, or add its folder to PYTHONPATH"
        text = f"cannot import the compressor {path!r}: {type(error).__name__}: {error}{advice}"
        raise UnknownCompressorError(text) from error
    if not (isinstance(cls, type) and issubclass(cls, Compressor)):
        raise UnknownCompressorError(f"{path!r} is not a subclass of framefold.Compressor")
    return cls
