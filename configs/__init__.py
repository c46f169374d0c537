"""Packaged configurations, by short name: ``trainer/cpu`` is ``configs/trainer/cpu.yaml``."""

from __future__ import annotations

from pathlib import Path

from framefold.errors import FramefoldError

_HERE = Path(__file__).resolve().parent


class ConfigNotFoundError(FramefoldError, LookupError):
    """Neither a packaged configuration nor a file has that name."""


def names() -> list[str]:
    """Short names of all packaged configurations, sorted."""
    return sorted(file.relative_to(_HERE).with_suffix("").as_posix() for file in _HERE.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """The file of a configuration.

    Args:
        name: path of a YAML file of your own, or the short name of a packaged one.

    Raises:
        ConfigNotFoundError: neither exists; the message lists the packaged ones of that kind.
    """
    if Path(name).is_file():
        return Path(name)
    if name in names():
        return _HERE / f"{name}.yaml"
    kind = name.partition("/")[0] + "/"
    known = [other for other in names() if other.startswith(kind)] or names()
    raise ConfigNotFoundError(f"no configuration {name!r}: not a file, and packaged are {', '.join(known)}")


def expand_names(args: list[str]) -> list[str]:
    """Replace the short names behind ``--config`` in command line arguments by paths."""
    out = list(args)
    for i, arg in enumerate(out):
        if arg.startswith("--config="):
            out[i] = f"--config={find_config(arg.removeprefix('--config='))}"
        elif i and out[i - 1] == "--config":
            out[i] = str(find_config(arg))
    return out
