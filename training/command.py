"""A function's signature is its command line: ``--config FILE --key value``, help from its docstring (jsonargparse)."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from typing import Any, get_args, get_origin

import jsonargparse

from ..configs import expand


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
        values = parser.instantiate_classes(parser.parse_args(expand(join_lists(function, _named(function, args)))))
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


def join_lists(function: Callable[..., Any], args: list[str], prefix: str = "") -> list[str]:
    """Write options as jsonargparse reads them.

    The values behind a list option become one (``--frames 32 64``: ``--frames=[32,64]``), a switch without a value gets
    it (``--compare``: ``--compare=true``), and dashes in a name become underscores (``--max-new-tokens``).

    Args:
        prefix: what comes before a parameter's name in its option, such as "data.".
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    lists = {f"--{prefix}{name}": _is_text(p.annotation) for name, p in parameters.items() if _is_list(p.annotation)}
    switches = {f"--{prefix}{name}" for name, p in parameters.items() if p.annotation is bool}
    out: list[str] = []
    rest = [_underscored(word) for word in args]
    while rest:
        word = rest.pop(0)
        if word in switches and (not rest or rest[0].startswith("--")):
            word += "=true"
        values: list[str] = []
        while word in lists and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        bare = bool(values) and not values[0].startswith("[") and values != ["null"]
        if bare and lists[word]:  # quoted, or YAML would make a number of a folder called 2024
            values = [json.dumps(text) for value in values for text in value.split(",")]
        out += [f"{word}=[{','.join(values)}]"] if bare else [word, *values]
    return out


def _underscored(word: str) -> str:
    """``--max-new-tokens=5`` as ``--max_new_tokens=5``; what is no option, and what follows "=", stays."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def _is_text(hint: Any) -> bool:
    return get_origin(hint) is list and str in get_args(hint) or any(_is_text(arg) for arg in get_args(hint))


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is list or any(_is_list(arg) for arg in get_args(hint))
