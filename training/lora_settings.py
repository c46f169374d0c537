"""Settings of LoRA in training: what is left open, and what an adapter to start from decides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from framefold.adapters.hosts.lora.config import FIELDS, LARGEST_RANK, Lora, default_fields
from framefold.errors import AdapterFileError, ConfigError
from framefold.messages import one_line, short

LANGUAGE = r".*\b(language_model|text_model)\."  # where the families keep it; looked at again once LoRA is in

SET_HERE = {"r": "r", "alpha": "lora_alpha", "targets": "target_modules"}  # and by no start that has others


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the language model of the host.

    Args:
        r: rank; None: that of the ``start``, or 8.
        alpha: LoRA is scaled by alpha / r; None: that of the ``start``, or 2 r.
        dropout: share of LoRA's inputs that is dropped in training.
        targets: layers, as a list of what their names end in, or as a regular expression of the whole name; None: those
            of the ``start``, or q_proj and v_proj.
        lr: peak learning rate of LoRA; the compressor has its own.

    Raises:
        ConfigError: a value out of range.
    """

    r: int | None = None
    alpha: float | None = None
    dropout: float = 0.05
    targets: list[str] | str | None = None
    lr: float = 2e-4

    def __post_init__(self) -> None:
        if self.r is not None and not 1 <= self.r <= LARGEST_RANK:
            raise ConfigError(f"lora: r must be 1 to {LARGEST_RANK}, got {self.r}")
        if self.alpha is not None and self.alpha <= 0 or self.lr <= 0 or not 0 <= self.dropout < 1:
            values = f"{self.alpha}, {self.lr} and {self.dropout}"
            raise ConfigError(f"lora: alpha and lr must be positive and dropout in [0, 1), got {values}")
        try:
            re.compile(pattern_of(self.targets or ""))
        except re.error as error:
            raise ConfigError(f"lora: targets {self.targets!r} are no regular expression: {error}") from error


def pattern_of(targets: list[str] | str) -> str:
    """Regular expression of the whole names of layers; ends of names match in the language model only."""
    if isinstance(targets, str):
        return targets
    return f"{LANGUAGE}(.*\\.)?({'|'.join(map(re.escape, targets))})"


def shape_of(lora: Lora) -> dict[str, Any]:
    """Fields of a LoRA config that decide what its matrices do, those that every LoRA has and what is unusual."""
    usual = default_fields()
    fields = {name: lora.fields.get(name, usual[name]) for name in FIELDS if name not in ("lora_dropout", "task_type")}
    always = SET_HERE.values()
    return {k: v for k, v in fields.items() if k in always or (v or None) != (usual[k] or None)}


def resolve_lora(given: LoraSettings | Mapping[str, Any] | None, found: Lora | None) -> LoraSettings | None:
    """Settings without anything left open; None where there is no LoRA.

    Args:
        given: of the configuration. found: LoRA to start from.

    Raises:
        ConfigError: an unknown setting, or one that is not that of the LoRA to start from.
        AdapterFileError: the LoRA to start from is one that these settings cannot describe.
    """
    if given is None and found is None:
        return None
    try:
        asked = given if isinstance(given, LoraSettings) else LoraSettings(**(given or {}))
    except TypeError as error:
        raise ConfigError(f"lora: {one_line(error)}") from error
    if found is None:
        r = asked.r or 8
        return replace(
            asked, r=r, alpha=asked.alpha or 2 * r, targets=pattern_of(asked.targets or ["q_proj", "v_proj"])
        )
    fields = shape_of(found)
    for name in sorted(fields.keys() - SET_HERE.values()):
        raise AdapterFileError(f"{found.file}: training cannot go on with {name}={short(fields[name])}")
    fields["target_modules"] = pattern_of(fields["target_modules"])
    for name, field in SET_HERE.items():
        value = getattr(asked, name)
        value = pattern_of(value) if name == "targets" and value is not None else value
        if value is not None and value != fields[field]:
            raise ConfigError(f"lora: {name} is {short(value)}, that of the start is {short(fields[field])}")
    return replace(asked, **{name: fields[field] for name, field in SET_HERE.items()})
