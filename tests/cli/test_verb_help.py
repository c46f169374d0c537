"""Help of the verbs and shell completion, read from the source without importing a verb."""

from __future__ import annotations

import argparse
import inspect
import json
import subprocess
import sys

import pytest

from framefold.__main__ import FUNCTIONS, LIGHTNING, _load, main
from framefold.cli import verb_help
from framefold.cli.completion import command_parser
from framefold.configs import config_names
from framefold.errors import ConfigError
from tests.support.paths import ROOT

Capture = pytest.CaptureFixture[str]


def test_options_are_the_parameters_of_the_function_with_their_defaults() -> None:
    for verb, (target, _) in FUNCTIONS.items():
        module, _, name = target.partition(":")
        options = verb_help.read_options(module, name)[1]
        parameters = inspect.signature(_load(target)).parameters
        assert [option.name for option in options] == list(parameters), verb
        for option in options:
            default = parameters[option.name].default
            assert (option.default is None) == (default is inspect.Parameter.empty), f"{verb} --{option.name}"
            assert option.text or verb == "doctor", f"{verb} --{option.name} has no description"


def test_help_of_every_verb_imports_only_a_docstring_parser() -> None:
    code = (
        "import json, sys; from framefold.__main__ import FUNCTIONS, LIGHTNING, main; before = set(sys.modules)\n"
        "for verb in [*LIGHTNING, *FUNCTIONS]: assert main([*verb.split(), '--help']) == 0, verb\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    assert set(modules) - sys.stdlib_module_names <= {"docstring_parser", "framefold", "yaml"}


def test_help_of_fit_has_one_line_per_option_and_names_the_long_help(capsys: Capture) -> None:
    assert main(["fit", "--help"]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("  --")]
    assert len(lines) == out.count("\n  --") < 80
    for option in ("--model.compressor fila", "--data.shards", "--trainer.max_steps", "--last.every", "--resume"):
        assert any(line.startswith(f"  {option}") for line in lines), option
    assert "framefold fit --help all" in out
    assert main(["validate", "--help"]) == 0
    assert "--last.every" not in capsys.readouterr().out


def test_long_help_of_fit_has_the_options_of_lightning(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["framefold"])
    assert main(["fit", "--help", "all"]) == 0
    out = capsys.readouterr().out
    for option in ("--trainer.profiler", "--model.lora", *(f"--{name}" for name in verb_help.TRAINER_OPTIONS)):
        assert option in out, option


def test_listed_values_of_options_are_their_choices() -> None:
    options = {option.name: option.choices for option in verb_help.read_options("cli.names", "print_list")[1]}
    assert options == {"kind": ("compressors", "hosts", "configs", "losses")}


def test_missing_function_is_an_error() -> None:
    with pytest.raises(ConfigError, match="framefold.cli.names has no nothing"):
        verb_help.read_options("cli.names", "nothing")


def test_completion_script_has_every_verb_option_and_configuration(capsys: Capture) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    syntax = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert syntax.returncode == 0, syntax.stderr
    for word in ("splice", "--model.compressor", "--max_new_tokens", *config_names(), *LIGHTNING):
        assert word in script, word
    verbs = _verbs(command_parser())
    assert verbs == {*LIGHTNING, *FUNCTIONS}


def _verbs(parser: argparse.ArgumentParser) -> set[str]:
    """Return the commands of a parser: those without subcommands, or with options of their own, as "eval"."""
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    options = [
        action for action in parser._actions if action not in subparsers and "--help" not in action.option_strings
    ]
    own = {parser.prog.removeprefix("framefold ")} if options or not subparsers else set()
    return own | {verb for some in subparsers for child in some.choices.values() for verb in _verbs(child)}
