"""Command lines from function signatures: ``--config FILE --key value``, with help from docstrings (jsonargparse)."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
from collections.abc import Callable
from typing import Any, get_origin

import jsonargparse

from framefold.configs import expand_config_names
from framefold.configs.arguments import normalize_options, option_error

ENGINE_OPTIONS = "engine_options"


def call(function: Callable[..., Any], verb: str, args: list[str]) -> int:
    """Parse command line arguments for a function and call it.

    Args:
        function: annotated and documented function; its parameters become options.
        verb: words after ``framefold``, for the usage line.
        args: words after the verb. Lists may be written ``--frames 32 64`` or ``--frames [32,64]``; a word before all
            options is the value of the first parameter, several words are its values if it is a list.

    Returns:
        The exit status: the function's result if it is an int (a check that found damage), otherwise 0.

    Raises:
        SystemExit: the arguments are wrong; its text is one line.
        ConfigNotFoundError: a configuration does not exist.
    """
    args = _with_engine_options(function, args)
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
    """Turn ``runs/fit --out x`` into ``--checkpoint runs/fit --out x``, using the name of the first parameter."""
    words = list(itertools.takewhile(lambda arg: not arg.startswith("-"), args))
    first = f"--{next(iter(inspect.signature(function).parameters))}"
    if len(words) == 1 and not _takes_list(function):
        return [f"{first}={words[0]}", *args[1:]]
    return [first, *args] if words else args


def _with_engine_options(function: Callable[..., Any], args: list[str]) -> list[str]:
    """Turn the words behind ``--`` into the value of the parameter ``engine_options``, if the function has it."""
    if "--" not in args or ENGINE_OPTIONS not in inspect.signature(function).parameters:
        return args
    cut = args.index("--")
    return [*args[:cut], f"--{ENGINE_OPTIONS}={json.dumps(args[cut + 1 :])}"]


def _takes_list(function: Callable[..., Any]) -> bool:
    parameter = next(iter(inspect.signature(function, eval_str=True).parameters.values()))
    return get_origin(parameter.annotation) is list
