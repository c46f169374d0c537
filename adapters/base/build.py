"""Building compressors: from a registered name, a chain of names, a class path, or an adapter folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.registry import JOINT, get, make
from framefold.adapters.pretrained.config import CONFIG
from framefold.adapters.pretrained.folder import load_folder
from framefold.errors import ConfigError, UnknownCompressorError

from . import chain as chain  # tells the registry how names joined by "+" become a class
from .compressor import Compressor


def build(name: str, budget: float | int | str = 0.25, **params: Any) -> Compressor:
    """Make a compressor.

    Args:
        name: a registered name; several of them joined by "+", which run in that order
            (:class:`~framefold.adapters.base.chain.Chain`); or the class path of one of your own.
        budget: retention ratio (float in (0, 1]) or number of tokens per video (int).
        params: the compressor's own parameters; for a chain, a dict of parameters for each of its stages
            (``build("pool+sttm", 0.1, sttm={"tau_s": 0.8})``).

    Raises:
        UnknownCompressorError: no such name; the message holds the nearest ones.
        ConfigError: unknown parameter, or one of a wrong type or out of range.
        BudgetError: budget out of range.
    """
    return make(_class_of(name), budget, params)


def _class_of(name: str) -> type[Compressor]:
    if isinstance(name, str) and "." in name and JOINT not in name:
        return _import_class(name)
    return get(name)


def _import_class(path: str) -> type[Compressor]:
    module, _, attribute = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # somebody's module may fail in any way
        raise UnknownCompressorError(f"cannot import the compressor {path!r}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Compressor)):
        raise UnknownCompressorError(f"{path!r} is not a subclass of framefold.Compressor")
    return cls


def load_or_build(name: str, budget: Budget | None, params: dict[str, Any] | None = None) -> Compressor:
    """A compressor by registered name, with parameters, or from an adapter folder, which has its own."""
    if "/" in name or (Path(name) / CONFIG).is_file():
        if params:
            raise ConfigError(f"an adapter folder brings its parameters, {name} takes none")
        return load_folder(name, budget=budget)
    return build(name, **params or {}) if budget is None else build(name, budget, **params or {})
