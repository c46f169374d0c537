"""``framefold list`` and ``framefold help``: what can be named on a command line, and what each name means.

Every text comes from where the thing is defined (class attributes, signatures, docstrings, declarations), so a new
compressor, host family, configuration or loss appears here by itself.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Union, get_args, get_origin

from framefold.configs import config_names, find_config
from framefold.errors import ConfigError, MissingExtraError
from framefold.messages import nearest, plain_text

Kind = Literal["compressors", "hosts", "configs", "losses"]


@dataclass(frozen=True)
class Entry:
    """A name and its text.

    Attributes:
        name: the name.
        columns: texts of the further columns of the list.
        describe: returns the text of ``framefold help NAME``.
    """

    name: str
    columns: tuple[str, ...]
    describe: Callable[[], str]


def list_entries(kind: Kind) -> list[Entry]:
    """Return all names of a kind.

    Args:
        kind: compressors, hosts, configs or losses.
    """
    return list(_KINDS[kind]())


def print_list(kind: Kind) -> None:
    """Print all names of a kind with one line about each.

    Args:
        kind: compressors, hosts (families that can be attached to), configs (packaged configurations) or losses.
    """
    rows = [(entry.name, *entry.columns) for entry in list_entries(kind)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_help(name: str) -> None:
    """Print what a name means: a compressor, a host family, a packaged configuration or a loss.

    Args:
        name: the name, as in ``framefold list``; a chain of compressors is described stage by stage.

    Raises:
        ConfigError: nothing has that name; the message lists the most similar names.
        MissingExtraError: as far as is known without transformers, nothing has that name.
    """
    found: list[str] = []
    known: dict[str, Kind] = {}
    missing: MissingExtraError | None = None
    for word in dict.fromkeys([name, *name.split("+")]):
        for kind in _KINDS:
            try:
                entries = list_entries(kind)
            except MissingExtraError as error:  # hosts and losses need transformers, the others do not
                missing = error
                continue
            for entry in entries:
                known[entry.name] = kind
                if entry.name == word:
                    found.append(entry.describe())
        if found and word == name:
            break
    if len(found) < name.count("+") + 1:
        if missing is not None:
            raise missing
        raise ConfigError(
            f"nothing is called {name!r}{nearest(name, known)} ('framefold list compressors|hosts|configs|losses' "
            "lists all names, 'framefold VERB --help' the options of a verb)"
        )
    print("\n\n".join(found))


# ---- compressors ----------------------------------------------------------------------------------------------------


def _compressors() -> list[Entry]:
    from framefold.adapters import list_compressors
    from framefold.adapters.core.registry import compressor_class

    classes = {name: compressor_class(name) for name in list_compressors()}
    return [
        Entry(name, (compressor_kind(cls), cls.paper, _summary(cls)), partial(_describe_compressor, cls))
        for name, cls in classes.items()
    ]


def compressor_kind(cls: type[Any]) -> str:
    """Return what sort of compressor a class is: "trained" or "training-free", and what it needs."""
    words = ["trained" if cls.trainable else "training-free"]
    words += ["query-aware"] if cls.query_aware else []
    words += ["needs attention"] if cls.needs_attention else []
    return ", ".join(words)


def _describe_compressor(cls: type[Any]) -> str:
    kind = compressor_kind(cls)
    if cls.counterpart:
        kind += f"; equal to {cls.counterpart} before training"
    facts = {"kind": kind, "source": cls.paper or "framefold", "cost": cls.cost}
    lines = [f"{cls.name}: {_summary(cls)}", ""]
    lines += [f"{key:<11}{value}" for key, value in facts.items() if value]
    lines += ["", "parameters (--params '{NAME: VALUE}')", *_parameter_lines(cls), "", "example"]
    question = '--question "..." ' if cls.query_aware else ""
    verb = "answer --host HOST" if cls.query_aware or cls.trainable else "show"
    lines += [f"  framefold {verb} --video clip.mp4 {question}--compressor {cls.name} --budget 0.1"]
    if cls.trainable:
        lines += [f"  framefold fit --model.compressor {cls.name} --model.budget 0.1 --config trainer/cpu"]
    details = plain_text(inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:")[0])
    lines += [f'  framefold.build("{cls.name}", budget=0.1)', "", details]
    return "\n".join(lines).rstrip()


def _parameter_lines(cls: type[Any]) -> list[str]:
    texts = _parameter_texts(cls)
    lines = []
    for parameter in inspect.signature(cls, eval_str=True).parameters.values():
        text = plain_text(" ".join(texts.get(parameter.name, "").split()))
        values = f"{_values(parameter.annotation)}, default {parameter.default!r}"
        lines.append(f"  {parameter.name} ({values})" + (f": {text}" if text else ""))
    return lines


def _values(annotation: Any) -> str:
    """Return the values that an annotation permits, in words."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, arguments))
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(map(_values, arguments))
    return "None" if annotation is type(None) else inspect.formatannotation(annotation)


def _parameter_texts(cls: type[Any]) -> dict[str, str]:
    """Return the descriptions of constructor parameters; those that refer to a parent class are taken from there."""
    import docstring_parser

    texts: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        for entry in docstring_parser.parse(parent.__doc__ or "").params:
            text = entry.description or ""
            if not text.startswith("see :class:") or entry.arg_name not in texts:
                texts[entry.arg_name] = text
    return texts


# ---- hosts, configurations, losses ----------------------------------------------------------------------------------


def _hosts() -> list[Entry]:
    from framefold.adapters.hosts import list_families
    from framefold.adapters.hosts.base.family import get_family

    families = {name: get_family(name) for name in list_families()}
    return [
        Entry(name, (", ".join(family.classes),), partial(_describe_host, family)) for name, family in families.items()
    ]


def _describe_host(family: Any) -> str:
    return "\n".join(
        [
            f"{family.model_type}: {_summary(type(family))}",
            "",
            f"classes    {', '.join(family.classes)}",
            "",
            "example",
            f"  model = transformers.{family.classes[0]}.from_pretrained(FOLDER_OR_ID)",
            '  framefold.attach(model, framefold.build("st_simdiff", budget=0.1))',
        ]
    )


def _configs() -> list[Entry]:
    return [Entry(name, (_config_comment(name),), partial(_describe_config, name)) for name in config_names()]


def _describe_config(name: str) -> str:
    return f"{name}\n\n{find_config(name).read_text().rstrip()}"


def _config_comment(name: str) -> str:
    """Return the first sentence of the comment that a configuration begins with."""
    comment = []
    for line in find_config(name).read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).partition(". ")[0].rstrip(".:")


def _losses() -> list[Entry]:
    from framefold.training.losses import LOSSES

    return [Entry(name, (loss.description,), partial(_describe_loss, loss)) for name, loss in LOSSES.items()]


def _describe_loss(loss: Any) -> str:
    needs = [f"the host's {loss.teacher} on all tokens"] if loss.teacher else []
    needs += ["a compressor that scores tokens"] if loss.needs_scores else []
    weights = ", ".join(f"{name}: 1.0" for name in dict.fromkeys(["answer", loss.name]))
    return "\n".join(
        [
            f"{loss.name}: {loss.description}",
            "",
            f"needs      {', '.join(needs) or 'nothing'}",
            f"example    framefold fit --model.losses '{{{weights}}}'",
        ]
    )


def _summary(cls: type[Any]) -> str:
    """Return the first sentence of a docstring, without the full stop."""
    return plain_text(inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]).partition(". ")[0].rstrip(".")


_KINDS: Mapping[Kind, Callable[[], list[Entry]]] = {
    "compressors": _compressors,
    "hosts": _hosts,
    "configs": _configs,
    "losses": _losses,
}
