"""``framefold fit`` and ``validate`` from the command line: look for torchvision before anything else is imported.

Hosts other than the embedded one show videos through their own processor, which needs torchvision. transformers looks
for torchvision only once, when it is imported, so the arguments are searched for the host before that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml

from framefold.configs import ConfigNotFoundError, expand_config_names
from framefold.errors import HostError, MissingExtraError
from framefold.import_signals import end_at_once
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.torchvision import find_torchvision


def main() -> None:
    """Run the verb that ``sys.argv`` begins with; see :func:`framefold.training.fit.lightning_cli.main`."""
    with end_at_once(sys.argv[1:]):
        if _needs_torchvision(sys.argv[2:]):
            with suppress(MissingExtraError):  # features need none; for videos the host raises before training
                find_torchvision()
        from .lightning_cli import main as run

    run()


def _needs_torchvision(args: Sequence[str]) -> bool:
    """Return whether the arguments name a host other than the embedded one."""
    settings = dict(_model_settings(args))
    if settings.get("host") is None:
        return False
    try:
        return not find_host(str(settings["host"]), settings.get("host_revision")).is_tinyhost
    except HostError:
        return False  # training raises it again


def _model_settings(args: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of the model in options and configuration files, in their order."""
    with suppress(ConfigNotFoundError):
        args = expand_config_names(list(args))
    for index, word in enumerate(args):
        name, equals, value = word.partition("=")
        value = value if equals else next(iter(args[index + 1 :]), "")
        if name == "--config":
            with suppress(OSError, ValueError, yaml.YAMLError), open(value) as file:
                model = (yaml.safe_load(file) or {}).get("model")
                yield from (model.items() if isinstance(model, dict) else ())
        elif name.startswith("--model."):
            yield name.removeprefix("--model."), value
