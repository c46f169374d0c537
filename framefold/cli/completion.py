"""``framefold completion``: a script that completes verbs, options and listed values in a shell (shtab)."""

from __future__ import annotations

import argparse
from typing import Literal

import shtab

from framefold.__main__ import FUNCTIONS, LIGHTNING
from framefold.configs import config_names

from .verb_help import verb_parser

Shell = Literal["bash", "zsh", "tcsh"]


def completion(shell: Shell) -> None:
    """Print the completion script of a shell, for example for eval "$(framefold completion bash)" in ~/.bashrc.

    Args:
        shell: bash, zsh or tcsh.
    """
    print(shtab.complete(command_parser(), shell))


def command_parser() -> argparse.ArgumentParser:
    """Return a parser of all verbs with their options; ``shards synth`` and the like are subcommands of ``shards``."""
    parser = argparse.ArgumentParser(prog="framefold")
    groups = {"": parser.add_subparsers()}
    commands: dict[str, argparse.ArgumentParser] = {}
    for verb, (target, summary) in sorted({**LIGHTNING, **FUNCTIONS}.items()):  # a verb before its own, as "eval table"
        group, _, name = verb.rpartition(" ")
        if group not in groups:
            owner = commands.get(group) or groups[""].add_parser(group, help=f"verbs of {group}")
            groups[group] = owner.add_subparsers()
        options = verb_parser(verb, target, summary)
        commands[verb] = command = groups[group].add_parser(name, help=summary)
        for action in options._actions:
            if "--help" not in action.option_strings:
                _copy(command, action)
    return parser


def _copy(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    choices = config_names() if "--config" in action.option_strings else action.choices
    copied = parser.add_argument(*action.option_strings, help=action.help, choices=choices, metavar=action.metavar)
    if choices is None:
        copied.complete = shtab.FILE  # type: ignore[attr-defined]
