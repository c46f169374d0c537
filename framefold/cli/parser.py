"""Command lines from function signatures: ``--config FILE --key value``, with help from docstrings (jsonargparse)."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

import jsonargparse

from framefold.configs import expand_config_names
from framefold.configs.arguments import normalize_options, option_error


def call(function: Callable[..., Any], verb: str, args: list[str]) -> int:
    """Parse command line arguments for a function and call it.

    Args:
        function: annotated and documented function; its parameters become options.
        verb: words after ``framefold``, for the usage line.
        args: words after the verb. Lists may be written ``--frames 32 64`` or ``--frames [32,64]``; a word before all
            options is the value of the first parameter.

    Returns:
        The exit status: the function's result if it is an int (a check that found damage), otherwise 0.

    Raises:
        SystemExit: the arguments are wrong; its text is one line.
        ConfigNotFoundError: a configuration does not exist.
    """
    parser = jsonargparse.ArgumentParser(prog=f"framefold {verb}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file, or short name of a packaged one; may be repeated")
    parser.add_function_arguments(function, as_positional=False)
    try:
        values = parser.instantiate_classes(
            parser.parse_args(expand_config_names(normalize_options(function, _named(function, args))))
        )
    except (jsonargparse.ArgumentError, argparse.ArgumentError, ValueError) as error:  # ValueError: raised by a type
        raise SystemExit(f"{option_error(str(error))} (options: framefold {verb} --help)") from error
    result = function(**{key: value for key, value in values.as_dict().items() if key != "config"})
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _named(function: Callable[..., Any], args: list[str]) -> list[str]:
    """Turn ``runs/fit --out x`` into ``--checkpoint=runs/fit --out x``, using the name of the first parameter."""
    if not args or args[0].startswith("-"):
        return args
    return [f"--{next(iter(inspect.signature(function).parameters))}={args[0]}", *args[1:]]
