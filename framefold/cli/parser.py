"""A function's signature is its command line: ``--config FILE --key value``, help from its docstring (jsonargparse)."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

import jsonargparse

from framefold.configs import expand_names
from framefold.configs.arguments import join_lists


def call(function: Callable[..., Any], verb: str, args: list[str]) -> int:
    """Parse arguments against a function and call it.

    Args:
        function: annotated and documented; its arguments become options.
        verb: words after ``framefold``, for the usage line.
        args: what follows the verb. Lists may be written ``--frames 32 64`` or ``--frames [32,64]``; a word in front
            of all options is the first argument.

    Returns:
        0, or the function's own result where it is an exit status (a check that found damage).

    Raises:
        SystemExit: with one line of text, for wrong arguments.
        ConfigNotFoundError: no such configuration.
    """
    parser = jsonargparse.ArgumentParser(prog=f"framefold {verb}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file or short name of a packaged one; may be repeated")
    parser.add_function_arguments(function, as_positional=False)
    try:
        values = parser.instantiate_classes(
            parser.parse_args(expand_names(join_lists(function, _named(function, args))))
        )
    except (jsonargparse.ArgumentError, argparse.ArgumentError, ValueError) as error:  # ValueError: of a type itself
        text = " ".join(str(error).split())[:1000]
        raise SystemExit(f"{text} (options: framefold {verb} --help)") from error
    result = function(**{key: value for key, value in values.as_dict().items() if key != "config"})
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _named(function: Callable[..., Any], args: list[str]) -> list[str]:
    """``runs/fit --out x`` as ``--checkpoint=runs/fit --out x``, by the name of the first argument."""
    if not args or args[0].startswith("-"):
        return args
    return [f"--{next(iter(inspect.signature(function).parameters))}={args[0]}", *args[1:]]
