"""Class paths that a run has saved, for example of its loggers, and that this version of framefold no longer has."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from framefold.errors import ConfigError

CLASS_PATH = re.compile(r"framefold(\.\w+)*\.[A-Z]\w*")


def check_class_paths(settings: Any, source: Path) -> None:
    """Refuse settings with the path of a framefold class that does not exist.

    Args:
        settings: contents of a configuration or the hyper-parameters of a checkpoint.
        source: file that they were read from, for the message.

    Raises:
        ConfigError: a class path does not exist.
    """
    for class_path in _class_paths(settings):
        if not _exists(class_path):
            raise ConfigError(
                f"{source} names {class_path}, which this version of framefold does not have: the run was started by a "
                "version with another layout, resume it with that version"
            )


def check_config_file(file: Path) -> None:
    """Check the class paths in a configuration file; a file that cannot be read is skipped.

    Raises:
        ConfigError: a class path does not exist.
    """
    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return
    check_class_paths(settings, file)


def _class_paths(settings: Any) -> Iterator[str]:
    if isinstance(settings, str) and CLASS_PATH.fullmatch(settings):
        yield settings
    elif isinstance(settings, (Mapping, list)):
        for value in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _class_paths(value)


def _exists(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False
