"""LoRA (arXiv 2106.09685) on the language model of a host that is otherwise frozen, in training and in the ablation.

The matrices are injected by PEFT into the host itself, so what is saved is a stock PEFT adapter. The vision encoder and
the projector are never adapted: what compressors are compared on stays the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from framefold.adapters.hosts.lora.config import Lora, import_peft, read_lora
from framefold.adapters.hosts.lora.inject import (
    all_or_nothing,
    inject_lora,
    make_peft_model,
    outside_of_language_model,
    with_lora,
)
from framefold.adapters.hosts.lora.save_load import check_width, describe_host
from framefold.adapters.pretrained.config import read_config
from framefold.errors import AdapterFileError, ConfigError
from framefold.files import weights_digest
from framefold.messages import one_line, short
from framefold.training.frozen_host.host import Host

from .lora_settings import SET_HERE, LoraSettings


class HostLora:
    """LoRA in the language model of a host that is being trained; ``parameters`` are its matrices.

    Args:
        host: bare and frozen; it gets the matrices.
        settings: settled ones.
        found: weights to start from; None: LoRA that changes nothing yet.

    Raises:
        ConfigError: the targets name no layer, or one outside of the language model.
        AdapterFileError: the weights do not fit the host.
    """

    def __init__(self, host: Any, settings: LoraSettings, found: Lora | None = None) -> None:
        self.settings = settings
        fields = {"lora_dropout": settings.dropout, **{key: getattr(settings, name) for name, key in SET_HERE.items()}}
        if found is None:
            self.model = _fresh(host, fields)
        else:
            with all_or_nothing(host, found.file):
                self.model = inject_lora(host, replace(found, fields=found.fields | fields), trainable=True)
        if (name := outside_of_language_model(host)) is not None:
            raise ConfigError(f"lora: the targets {settings.targets!r} match {name}, outside of the language model")
        self.about = describe_host(host)
        self.parameters = [parameter for parameter in host.parameters() if parameter.requires_grad]

    def train(self, mode: bool) -> None:
        """Switch dropout, all that changes with the mode here."""
        for module in self.model.modules():
            for dropout in getattr(module, "lora_dropout", {}).values():
                dropout.train(mode)

    def state(self) -> dict[str, Tensor]:
        """The matrices by the names that PEFT saves them under."""
        return import_peft().get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over matrices of the same names and sizes."""
        import_peft().set_peft_model_state_dict(self.model, dict(state))

    def describe(self, host_folder: str) -> dict[str, Any]:
        """What an adapter folder says of it, JSON-able: ``about`` for config.json, ``config`` for PEFT's file.

        Args:
            host_folder: of the host that it is trained in.
        """
        config = self.model.peft_config["default"].to_dict()
        about = {**self.about, "host_weights": weights_digest(Path(host_folder))}
        return {"about": about, "config": json.loads(json.dumps(config, default=sorted))}


def _fresh(host: Any, fields: dict[str, Any]) -> Any:
    peft = import_peft()
    try:
        return make_peft_model(host, peft.LoraConfig(**fields))
    except ValueError as error:
        raise ConfigError(f"lora: {one_line(error)}") from error


@contextmanager
def without_lora(host: Any) -> Iterator[None]:
    """The host as it was before LoRA, whether it has any or not; gradients flow as before afterwards."""
    if not getattr(host, "peft_config", None):
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in host.modules() if isinstance(module, BaseTunerLayer)]
    flags = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in flags:  # enabling makes adapters trainable
            parameter.requires_grad_(flag)


@contextmanager
def tuned(host: Host, folder: Path, host_folder: Path) -> Iterator[None]:
    """Run a host with the LoRA of an adapter folder; afterwards it is what it was, bit for bit.

    Args:
        host_folder: of the host.

    Raises:
        AdapterFileError: it does not fit this host, or changes more of it than the language model.
    """
    check_base(host, folder, host_folder)
    with with_lora(host.model, read_lora(folder)):
        if (name := outside_of_language_model(host.model)) is not None:
            raise AdapterFileError(f"{folder} adapts {name}, outside of the language model of the host")
        yield


def check_base(host: Host, folder: Path, host_folder: Path) -> None:
    """Refuse LoRA that was trained in another host.

    Raises:
        AdapterFileError: of another kind, width or, where the adapter says which they were, weights.
    """
    config = read_config(folder)
    kind = host.model.config.model_type
    if config.get("host", kind) != kind:
        raise AdapterFileError(f"{folder} was trained in a {short(config['host'])} host, this is {kind!r}")
    check_width(host.model, config, folder)
    if config.get("host_weights") not in (None, weights_digest(host_folder)):
        base = short(config.get("base_model_name_or_path"))
        raise AdapterFileError(
            f"the LoRA of {folder} was trained in {base}, whose weights are not those of {host_folder}"
        )
