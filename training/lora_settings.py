"""Settings of LoRA in training, and their resolution against an adapter to start from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from framefold.adapters.hosts.lora.config import FIELDS, LARGEST_RANK, LoraAdapter, default_fields
from framefold.errors import AdapterFileError, ConfigError
from framefold.messages import one_line, short

LANGUAGE = r".*\b(language_model|text_model)\."  # its name in the host families; checked again after injection

PEFT_FIELDS = {"r": "r", "alpha": "lora_alpha", "targets": "target_modules"}  # settings that a start must agree with


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the language model of the host.

    Args:
        r: rank; by default that of ``start``, or 8.
        alpha: LoRA is scaled by alpha / r; by default that of ``start``, or 2 r.
        dropout: dropout probability of LoRA's inputs in training.
        targets: layers, as a list of name endings or as a regular expression for full names; by default those of
            ``start``, or q_proj and v_proj.
        lr: peak learning rate of LoRA; the compressor has its own.

    Raises:
        ConfigError: A value is out of range.
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
            re.compile(target_pattern(self.targets or ""))
        except re.error as error:
            raise ConfigError(f"lora: targets {self.targets!r} are not a regular expression: {error}") from error


def target_pattern(targets: list[str] | str) -> str:
    """Return a regular expression for full layer names; name endings match in the language model only."""
    if isinstance(targets, str):
        return targets
    return f"{LANGUAGE}(.*\\.)?({'|'.join(map(re.escape, targets))})"


def structural_fields(lora: LoraAdapter) -> dict[str, Any]:
    """Return the fields of a LoRA config that determine its effect: rank, alpha, targets, and non-default ones."""
    defaults = default_fields()
    names = [name for name in FIELDS if name not in ("lora_dropout", "task_type")]
    fields = {name: lora.fields.get(name, defaults[name]) for name in names}
    always = PEFT_FIELDS.values()
    return {k: v for k, v in fields.items() if k in always or (v or None) != (defaults[k] or None)}


def resolve_lora(settings: LoraSettings | Mapping[str, Any] | None, saved: LoraAdapter | None) -> LoraSettings | None:
    """Return settings in which r, alpha and targets are set, or None for training without LoRA.

    Args:
        settings: of the configuration.
        saved: LoRA of the adapter to start from.

    Raises:
        ConfigError: A setting is unknown, or differs from that of ``saved``.
        AdapterFileError: These settings cannot describe ``saved``.
    """
    if settings is None and saved is None:
        return None
    try:
        given = settings if isinstance(settings, LoraSettings) else LoraSettings(**(settings or {}))
    except TypeError as error:
        raise ConfigError(f"lora: {one_line(error)}") from error
    if saved is None:
        r = given.r or 8
        targets = target_pattern(given.targets or ["q_proj", "v_proj"])
        return replace(given, r=r, alpha=given.alpha or 2 * r, targets=targets)
    fields = structural_fields(saved)
    for name in sorted(fields.keys() - PEFT_FIELDS.values()):
        raise AdapterFileError(f"{saved.file}: training cannot continue with {name}={short(fields[name])}")
    fields["target_modules"] = target_pattern(fields["target_modules"])
    for name, field in PEFT_FIELDS.items():
        value = getattr(given, name)
        value = target_pattern(value) if name == "targets" and value is not None else value
        if value is not None and value != fields[field]:
            raise ConfigError(f"lora: {name} is {short(value)}, that of the start is {short(fields[field])}")
    return replace(given, **{name: fields[field] for name, field in PEFT_FIELDS.items()})
