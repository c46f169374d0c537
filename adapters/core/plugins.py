"""Messages about plug-in packages: why a compressor outside of framefold is not available, and what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from framefold.messages import nearest

GROUP = "framefold.compressors"  # of entry points

LONGEST = 120  # characters of a class path

_CLASS_PATH = re.compile(r"[^\W\d]\w*(\.([^\W\d]\w*|<locals>))+", re.ASCII)  # it may come from a downloaded file


@dataclass(frozen=True)
class PluginProblem:
    """A plug-in that failed, or that does not define the compressor after which it is named.

    Attributes:
        name: name of the entry point, or of the module.
        module: module that it imports.
        text: the problem, with the entry point and its package.
        failed: whether the import failed.
    """

    name: str
    module: str
    text: str
    failed: bool


def import_failed(entry: Any, error: BaseException) -> PluginProblem:
    """Describe an entry point whose import raised an error."""
    text = f"the compressor plug-in {_describe(entry)} failed to import: {type(error).__name__}: {error}"
    return PluginProblem(entry.name, entry.value.partition(":")[0], text, failed=True)


def defines_nothing(entry: Any) -> PluginProblem:
    """Describe an entry point whose module defines no compressor of its name."""
    text = f"the plug-in {_describe(entry)} was imported, but defines no class with name = {entry.name!r}"
    return PluginProblem(entry.name, entry.value.partition(":")[0], text, failed=False)


def class_path(cls: type[Any]) -> str:
    """Return the class path of a class, such as ``my_package.moving.Moving``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def module_of(path: Any) -> str:
    """Return the module of a class path from a file; "" if it is none."""
    is_class_path = isinstance(path, str) and len(path) < LONGEST and _CLASS_PATH.fullmatch(path)
    return path.rpartition(".")[0] if is_class_path else ""


def explain_missing(name: Any, path: str | None, known: Sequence[str], problems: Sequence[PluginProblem]) -> str:
    """Return the end of a message about a compressor that is not registered.

    Args:
        name: its name.
        path: its class path, as recorded in a file or given by the user; None if it is not known.
        known: all registered names.
        problems: problems of the plug-ins of this environment.

    Returns:
        The problem of the plug-in that should provide the compressor; otherwise what to import, or the most similar
        names, followed by all plug-ins that failed.
    """
    module = module_of(path)
    path = path if module else None
    own = [problem.text for problem in problems if name == problem.name or module and module == problem.module]
    if own:
        return f": {'; '.join(own)}"
    hint = nearest(name, known) if path is None else _advice(name, path)
    return hint + "".join(f"; {problem.text}" for problem in problems if problem.failed)


def _advice(name: Any, path: str) -> str:
    module, _, attribute = path.rpartition(".")
    package = module.partition(".")[0]
    if package == "__main__" or "<locals>" in path:
        return f": its class {path} was defined in a script, a notebook or a function, so it cannot be imported"
    install = "" if _is_installed(package) else f"install {package}, or add its folder to PYTHONPATH, then "
    entry = f'{str(name).rpartition(".")[2]} = "{module}:{attribute}"'
    return (
        f": it is the class {path}, which has not been imported: {install}import {module} first (on the command line, "
        f"'framefold --import {module} ...'), or declare the entry point {entry} in the group {GROUP} of {package}"
    )


def _describe(entry: Any) -> str:
    package = getattr(entry, "dist", None)
    origin = f" of {package.name} {package.version}" if package is not None else ""
    return f"{entry.name!r} ({entry.value}){origin}"


def _is_installed(package: str) -> bool:
    """Whether a top-level package can be found, without running its code."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
