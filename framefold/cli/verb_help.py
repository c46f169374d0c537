"""Help and shell completion of the verbs, from the source of their functions: nothing of a verb is imported.

The options of a verb are the parameters of a function (see :mod:`framefold.cli.parser`). Their names, types, defaults
and descriptions are in the source file, so a help appears at once and even where a package that the verb needs is
missing. ``fit`` and ``validate`` list the options that most runs need; ``--help all`` lists those of Lightning as well.
"""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import docstring_parser

from framefold.errors import ConfigError
from framefold.messages import plain_text

FIT_VERBS = ("fit", "validate")

FIT_SECTIONS = {
    "model": ("training.module", "CompressorModule"),
    "data": ("training.datamodule", "VideoData"),
    "best": ("training.checkpoint.callbacks", "BestCheckpoint"),
    "last": ("training.checkpoint.callbacks", "LastCheckpoint"),
    "early_stop": ("training.fit.callbacks", "EarlyStop"),
}

TRAINER_OPTIONS = {
    "resume": "checkpoint to resume from, or auto (the newest in trainer.default_root_dir, if there is one)",
    "trainer.default_root_dir": "folder of the run",
    "trainer.max_steps": "number of optimizer steps",
    "trainer.max_epochs": "number of epochs; the first of the two limits ends the run",
    "trainer.devices": "number of GPUs or processes per machine",
    "trainer.num_nodes": "number of machines",
    "trainer.strategy": "ddp, deepspeed_stage_2, ...: how ranks share the work ('framefold list configs')",
    "trainer.precision": "32-true or bf16-mixed",
    "trainer.accumulate_grad_batches": "batches per optimizer step",
    "trainer.gradient_clip_val": "largest norm of the gradient",
    "trainer.val_check_interval": "batches, or fraction of an epoch, between validations",
    "trainer.limit_val_batches": "largest number of validation batches; 0 for no validation",
    "trainer.log_every_n_steps": "steps between logged values",
    "trainer.logger": "false for none; by default TensorBoard files and metrics.csv",
}


@dataclass(frozen=True)
class Option:
    """An option of a verb.

    Attributes:
        name: name without dashes.
        type: annotation, as written in the source.
        default: default, as written in the source; None if the option is required.
        text: description.
        choices: permitted values, if they are listed.
    """

    name: str
    type: str
    default: str | None
    text: str
    choices: tuple[str, ...] = ()


def verb_help(verb: str, target: str, summary: str) -> str:
    """Return the text of ``framefold VERB --help``.

    Args:
        verb: words after ``framefold``.
        target: module and function, as in the tables of ``framefold/__main__.py``.
        summary: one line about the verb.
    """
    return _fit_help(verb, summary) if verb in FIT_VERBS else verb_parser(verb, target, summary).format_help()


def verb_parser(verb: str, target: str, summary: str) -> argparse.ArgumentParser:
    """Return a parser that documents the options of a verb; it is not used to parse them. See :func:`verb_help`."""
    description, sections = summary, fit_sections(verb)
    if verb not in FIT_VERBS:
        module, _, function = target.partition(":")
        described, options = read_options(module, function)
        description, sections = described or summary, {"": options}
    required = [option for options in sections.values() for option in options if option.default is None]
    usage = " ".join(
        [f"framefold {verb}", *(f"--{one.name} {one.name.upper()}" for one in required), "[--key value ...]"]
    )
    parser = argparse.ArgumentParser(prog=f"framefold {verb}", usage=usage, description=description)
    parser.add_argument("--config", metavar="FILE", help="YAML file, or short name of a packaged one; may be repeated")
    for options in sections.values():
        for option in options:
            values = {"choices": option.choices} if option.choices else {"metavar": option.name.upper()}
            parser.add_argument(f"--{option.name}", help=_description(option).replace("%", "%%"), **values)
    return parser


def _description(option: Option) -> str:
    facts = [] if option.choices else [option.type]
    facts.append("required" if option.default is None else f"default: {option.default}")
    return f"{option.text} ({', '.join(facts)})"


def fit_sections(verb: str) -> dict[str, list[Option]]:
    """Return the options of ``fit`` or ``validate`` by section, without those of Lightning that few runs need."""
    if verb not in FIT_VERBS:
        return {}
    names = [name for name in FIT_SECTIONS if verb == "fit" or name in ("model", "data")]
    sections = {
        name: [replace(option, name=f"{name}.{option.name}") for option in read_options(*FIT_SECTIONS[name])[1]]
        for name in names
    }
    trainer = TRAINER_OPTIONS if verb == "fit" else {k: v for k, v in TRAINER_OPTIONS.items() if k != "resume"}
    return {**sections, "trainer": [Option(name, "any", "", text) for name, text in trainer.items()]}


def _fit_help(verb: str, summary: str) -> str:
    """Return one line per option: its default and the first clause of its description."""
    lines = [
        f"usage: framefold {verb} [--config NAME_OR_FILE ...] [--model.key value ...] [--data.key value ...] ...",
        "",
        f"{summary[:1].upper()}{summary[1:]}. Configurations ('framefold list configs') are merged in order; options",
        "override them.",
    ]
    for options in fit_sections(verb).values():
        lines.append("")
        for option in options:
            name = f"--{option.name}" + (f" {option.default}" if option.default not in ("", "None", None) else "")
            lines.append(f"  {name:<38}{_first_clause(option.text)}")
    lines += ["", f"'framefold {verb} --help all' describes all options, including every one of Lightning's Trainer."]
    return "\n".join(lines) + "\n"


def _first_clause(text: str) -> str:
    return re.split(r"[;.] |\.$", text, maxsplit=1)[0]


@cache
def read_options(module: str, name: str) -> tuple[str, list[Option]]:
    """Return the description and the options of a function, or of the constructor of a class, without importing it.

    Args:
        module: module of the function, without ``framefold.``.
        name: name of the function or class.

    Raises:
        ConfigError: the module has no such function.
    """
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    nodes = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    node = nodes.get(_wrapped(nodes[name]) or name) if name in nodes else None
    if node is None:
        raise ConfigError(f"framefold.{module} has no {name}")
    function = node
    if isinstance(node, ast.ClassDef):
        function = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    assert isinstance(function, ast.FunctionDef)
    # The sections after the arguments are not needed, and free text in them would make the parser drop everything.
    documented = docstring_parser.parse(re.split(r"\n(?:Returns|Raises):\n", ast.get_docstring(node) or "")[0])
    texts = {entry.arg_name: plain_text(" ".join((entry.description or "").split())) for entry in documented.params}
    options = [
        Option(
            argument.arg,
            ast.unparse(argument.annotation) if argument.annotation else "any",
            None if default is None else _default(default),
            texts.get(argument.arg, ""),
            _choices(argument.annotation, tree),
        )
        for argument, default in _arguments(function.args)
        if argument.arg != "self"
    ]
    return " ".join((documented.short_description or "").split()), options


def _wrapped(node: ast.FunctionDef | ast.ClassDef) -> str | None:
    """Return the name of the function whose parameters and docstring ``functools.wraps`` gives to another one."""
    wraps = [one for one in node.decorator_list if ast.unparse(one).startswith("functools.wraps(")]
    return ast.unparse(wraps[0].args[0]) if wraps and isinstance(wraps[0], ast.Call) else None


def _arguments(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    positional: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    positional += arguments.defaults
    return [
        *zip(arguments.args, positional, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]


def _default(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)


def _choices(annotation: ast.expr | None, tree: ast.Module) -> tuple[str, ...]:
    """Return the values of a ``Literal``, or of an alias for one in the same file."""
    if isinstance(annotation, ast.Name):
        alias = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == annotation.id for target in node.targets)
        ]
        return _choices(alias[0], tree) if alias else ()
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        return tuple(map(str, ast.literal_eval(ast.Tuple(_items(annotation.slice)))))
    return ()


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _source(module: str) -> Path:
    """Return the source file of a module without importing it; packages of verbs have empty ``__init__`` files."""
    import framefold

    return Path(framefold.__path__[0], *module.split(".")).with_suffix(".py")
