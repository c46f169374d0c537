"""Detect regular expressions in a LoRA config that could take exponential time to match.

PEFT matches these patterns against every module name of a host, and Python's ``re`` backtracks over all ways to match.
Dangerous patterns cannot be characterised exactly, so this module sets limits that patterns for module names stay
within.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 2000  # characters

MOST_REPEATS, MOST_CHOICES = 3, 12  # of one pattern

_ESCAPED_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)

_REPEAT = re.compile(r"[*+]|\{\d*,?\d*\}")

_CHOICE = re.compile(r"\?(?![:=!<P])|\((?!\?)|\(\?(?![aiLmsux-]+\))")


def find_dangerous_pattern(fields: Mapping[str, Any]) -> str | None:
    """Return the field of a LoRA config with a dangerous pattern and the reason, or None if there is none."""
    for name, pattern in _patterns(fields):
        if (reason := _exceeded_limit(pattern)) is not None:
            return f"{name} {reason}: name the modules in a list"
    return None


def _patterns(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("target_modules", "exclude_modules"):
        if isinstance(fields.get(name), str):
            yield name, fields[name]
    for name in ("layers_pattern", "modules_to_save", "rank_pattern", "alpha_pattern"):
        value = fields.get(name) or ()
        yield from ((name, one) for one in ([value] if isinstance(value, str) else value) if isinstance(one, str))


def _exceeded_limit(pattern: str) -> str | None:
    if len(pattern) > LONGEST:
        return f"has more than {LONGEST} characters"
    plain = _ESCAPED_OR_CLASS.sub("x", pattern)
    if re.search(r"\)(?:[*+]|\{)", plain):
        return "repeats a group"
    if len(_REPEAT.findall(plain)) > MOST_REPEATS:
        return f"has more than {MOST_REPEATS} repeats"
    if len(_CHOICE.findall(plain)) > MOST_CHOICES:
        return f"has more than {MOST_CHOICES} groups and optional parts"
    return None
