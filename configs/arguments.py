"""Spellings of command line options: lists, switches and dashes; and errors about them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any, get_args, get_origin


def normalize_options(function: Callable[..., Any], args: list[str], prefix: str = "") -> list[str]:
    """Rewrite options in the form that jsonargparse reads.

    The values of a list option become one value (``--frames 32 64`` becomes ``--frames=[32,64]``), a switch without a
    value gets one (``--compare`` becomes ``--compare=true``), and dashes in names become underscores
    (``--max-new-tokens``).

    Args:
        function: function whose parameters are the options.
        args: command line arguments.
        prefix: text before a parameter's name in its option, such as "data.".
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
        if bare and lists[word]:  # quoted, because YAML would read a folder named 2024 as a number
            values = [json.dumps(text) for value in values for text in value.split(",")]
        out += [f"{word}=[{','.join(values)}]"] if bare else [word, *values]
    return out


def option_error(text: str) -> str:
    """Return an error of jsonargparse as one line that names options as they are typed: ``--out``, not ``out``."""
    text = " ".join(text.split())[:1000]
    required = re.fullmatch(r"the following arguments are required: ([\w., ]+)", text)
    if required is not None:
        names = [f"--{name}" for name in required[1].split(", ")]
        return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} required"
    text = re.sub(r'(?:Parser key|Option|Key) "([\w.]+)"', r"--\1", text)
    text = re.sub(r"<class '(\w+)'>", lambda found: found[1].replace("NoneType", "null"), text)
    text = re.sub(r"typing\.Literal\[([^]]*)\]", r"one of \1", text)
    union = r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors:.*Given value: (.*)"
    text = re.sub(union, r"Expected \1. Got value: \2", text)
    for old, new in {
        "Expected a ": "Expected ",
        "Expected Budget": "Expected int, float",
        ", null.": " or null.",
    }.items():
        text = text.replace(old, new)
    return text


def _underscored(word: str) -> str:
    """Turn ``--max-new-tokens=5`` into ``--max_new_tokens=5``; values are not changed."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word


def _is_text(hint: Any) -> bool:
    return get_origin(hint) is list and str in get_args(hint) or any(_is_text(arg) for arg in get_args(hint))


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint)  # the lists in a mapping are no list of values
    return origin is list or origin is not dict and any(_is_list(arg) for arg in get_args(hint))
