"""``framefold fit`` and ``validate`` from the command line: torchvision first, then everything else.

Hosts other than the embedded one are shown videos through their own processor, which needs torchvision; transformers
looks for that once, when it is imported. So the host is found in the arguments before anything imports transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml

from framefold.configs import ConfigNotFoundError, expand_names
from framefold.errors import HostError, MissingExtraError
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.torchvision import find_torchvision


def main() -> None:
    """Run the verb that ``sys.argv`` begins with; see :func:`framefold.training.fit.lightning_cli.main`."""
    if _needs_torchvision(sys.argv[2:]):
        with suppress(MissingExtraError):  # features need none; for videos the host says so before training
            find_torchvision()
    from .lightning_cli import main as run

    run()


def _needs_torchvision(args: Sequence[str]) -> bool:
    """Whether the arguments name a host that is not the embedded one."""
    named = dict(_model_settings(args))
    if named.get("host") is None:
        return False
    try:
        return not find_host(str(named["host"]), named.get("host_revision")).is_embedded
    except HostError:
        return False  # training says what is wrong


def _model_settings(args: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What options and configuration files say about the model, in their order."""
    with suppress(ConfigNotFoundError):
        args = expand_names(list(args))
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        value = value if equals else next(iter(args[place + 1 :]), "")
        if name == "--config":
            with suppress(OSError, ValueError, yaml.YAMLError), open(value) as file:
                model = (yaml.safe_load(file) or {}).get("model")
                yield from (model.items() if isinstance(model, dict) else ())
        elif name.startswith("--model."):
            yield name.removeprefix("--model."), value
