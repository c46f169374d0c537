"""Constructor parameters as configuration: reading them from an object and validating them against the signature.

The signature of ``__init__`` is the schema: its names, defaults and annotations. Configurations come from YAML, the
command line and downloaded folders, so every value is checked before it reaches a constructor.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from framefold.errors import ConfigError
from framefold.messages import nearest, short


def init_params(cls: type) -> dict[str, Any]:
    """Return names and defaults of a compressor's constructor parameters, without the budget."""
    signature = inspect.signature(cls)
    return {name: p.default for name, p in signature.parameters.items() if name != "budget"}


def read_params(compressor: Any) -> dict[str, Any]:
    """Return current values of the constructor parameters; tuples become lists, as in JSON."""
    values = {name: getattr(compressor, name) for name in init_params(type(compressor))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def check_params(cls: type, params: Mapping[str, Any]) -> dict[str, Any]:
    """Validate parameters against the annotations of a constructor.

    Returns:
        The parameters; lists are converted to tuples and ints to floats where the annotation requires it.

    Raises:
        ConfigError: an unknown name (with the nearest known one) or a value of another type.
    """
    known = init_params(cls)
    hints = {name: p.annotation for name, p in inspect.signature(cls, eval_str=True).parameters.items()}
    checked = {}
    for name, value in params.items():
        if name not in known:
            raise ConfigError(f"{_title(cls)} has no parameter {short(name)}{nearest(name, known)}")
        ok, converted = _convert(value, hints.get(name, Any))
        if not ok:
            infinite = isinstance(value, float) and not math.isfinite(value)
            expected = "a finite number" if infinite else _describe(hints[name])
            raise ConfigError(f"{_title(cls)}: {name} must be {expected}, got {short(value)}")
        checked[name] = converted
    return checked


def _convert(value: Any, hint: Any) -> tuple[bool, Any]:
    """Return whether a value fits an annotation, and the value converted to it."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True, value
    if origin in (Union, types.UnionType):
        results = [_convert(value, arg) for arg in args]
        exact = [v for (ok, v), arg in zip(results, args, strict=True) if ok and type(value) is arg]
        loose = [v for ok, v in results if ok]
        return bool(loose), (exact or loose or [None])[0]
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args), value
    if origin is tuple:
        return _convert_tuple(value, args)
    if hint is float or hint is int:
        return _convert_number(value, hint)
    return isinstance(value, hint), value


def _convert_number(value: Any, hint: type) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, Integral if hint is int else Real):
        return False, value
    try:
        number = hint(value)
    except (OverflowError, ValueError):  # an int too large for a float
        return False, value
    return math.isfinite(number) if hint is float else True, number


def _convert_tuple(value: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, (list, tuple)):
        return False, value
    if args[-1:] == (Ellipsis,):
        args = args[:1] * len(value)
    if len(args) != len(value):
        return False, value
    items = [_convert(v, a) for v, a in zip(value, args, strict=True)]
    return all(ok for ok, _ in items), tuple(v for _, v in items)


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _title(cls: type) -> str:
    return str(getattr(cls, "name", cls.__name__))
