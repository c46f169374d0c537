"""Packaged configurations with short names: ``trainer/cpu`` is ``configs/trainer/cpu.yaml``."""

from __future__ import annotations

from pathlib import Path

from framefold.errors import FramefoldError

_HERE = Path(__file__).resolve().parent


class ConfigNotFoundError(FramefoldError, LookupError):
    """There is neither a packaged configuration nor a file of that name."""


def config_names() -> list[str]:
    """Return the short names of all packaged configurations, sorted."""
    return sorted(file.relative_to(_HERE).with_suffix("").as_posix() for file in _HERE.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """Return the file of a configuration.

    Args:
        name: path of a YAML file, or short name of a packaged configuration.

    Raises:
        ConfigNotFoundError: neither exists; the message lists the packaged configurations of that kind.
    """
    if Path(name).is_file():
        return Path(name)
    if name in config_names():
        return _HERE / f"{name}.yaml"
    kind = name.partition("/")[0] + "/"
    known = [other for other in config_names() if other.startswith(kind)] or config_names()
    raise ConfigNotFoundError(f"no configuration {name!r}: there is no such file; packaged are {', '.join(known)}")


def expand_config_names(args: list[str]) -> list[str]:
    """Replace short names after ``--config`` in command line arguments with paths."""
    out = list(args)
    for i, arg in enumerate(out):
        if arg.startswith("--config="):
            out[i] = f"--config={find_config(arg.removeprefix('--config='))}"
        elif i and out[i - 1] == "--config":
            out[i] = str(find_config(arg))
    return out
