"""LoRA (arXiv 2106.09685) in the language model of an otherwise frozen host, for training and the ablation.

PEFT injects the matrices into the host itself, so the saved files are a stock PEFT adapter. The vision encoder and the
projector are never adapted, so all compressors are compared on the same visual tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from framefold.adapters.hosts.lora.config import LoraAdapter, import_peft, read_lora
from framefold.adapters.hosts.lora.inject import (
    inject_lora,
    make_peft_model,
    module_outside_language_model,
    restore_on_error,
    with_lora,
)
from framefold.adapters.hosts.lora.save_load import check_width, describe_host
from framefold.adapters.pretrained.config import read_config
from framefold.errors import AdapterFileError, ConfigError
from framefold.files import weights_digest
from framefold.messages import one_line, short
from framefold.training.frozen_host.host import Host

from .lora_settings import PEFT_FIELDS, LoraSettings


class HostLora:
    """Trainable LoRA in the language model of a host.

    Attributes:
        parameters: the LoRA matrices.

    Args:
        host: frozen and without LoRA; the matrices are injected into it.
        settings: resolved, see :func:`~framefold.training.lora_settings.resolve_lora`.
        saved: weights to start from; None initialises LoRA so that it does not change the host's outputs.

    Raises:
        ConfigError: The targets match no layer, or a layer outside the language model.
        AdapterFileError: The weights do not fit the host.
    """

    def __init__(self, host: Any, settings: LoraSettings, saved: LoraAdapter | None = None) -> None:
        self.settings = settings
        fields = {
            "lora_dropout": settings.dropout,
            **{key: getattr(settings, name) for name, key in PEFT_FIELDS.items()},
        }
        if saved is None:
            self.model = _initialise(host, fields)
        else:
            with restore_on_error(host, saved.file):
                self.model = inject_lora(host, replace(saved, fields=saved.fields | fields), trainable=True)
        if (name := module_outside_language_model(host)) is not None:
            raise ConfigError(f"lora: the targets {settings.targets!r} match {name}, outside the language model")
        self.about = describe_host(host)
        self.parameters = [parameter for parameter in host.parameters() if parameter.requires_grad]

    def train(self, mode: bool) -> None:
        """Set the mode of LoRA's dropout; the host stays in eval mode."""
        for module in self.model.modules():
            for dropout in getattr(module, "lora_dropout", {}).values():
                dropout.train(mode)

    def state(self) -> dict[str, Tensor]:
        """Return the matrices, by the names under which PEFT saves them."""
        return import_peft().get_peft_model_state_dict(self.model, save_embedding_layers=False)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load matrices of the same names and shapes."""
        import_peft().set_peft_model_state_dict(self.model, dict(state))

    def describe(self, host_folder: str) -> dict[str, Any]:
        """Return the metadata for an adapter folder, JSON-able.

        Args:
            host_folder: folder of the host.

        Returns:
            ``about`` for config.json, and ``config`` for PEFT's file.
        """
        config = self.model.peft_config["default"].to_dict()
        about = {**self.about, "host_weights": weights_digest(Path(host_folder))}
        return {"about": about, "config": json.loads(json.dumps(config, default=sorted))}


def _initialise(host: Any, fields: dict[str, Any]) -> Any:
    peft = import_peft()
    try:
        return make_peft_model(host, peft.LoraConfig(**fields))
    except ValueError as error:
        raise ConfigError(f"lora: {one_line(error)}") from error


@contextmanager
def without_lora(host: Any) -> Iterator[None]:
    """Disable LoRA in the host, if it has any; afterwards the same parameters require gradients as before."""
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
        for parameter, flag in flags:  # enable_adapters makes all matrices trainable
            parameter.requires_grad_(flag)


@contextmanager
def adapter_lora(host: Host, folder: Path, host_folder: Path) -> Iterator[None]:
    """Inject the LoRA of an adapter folder into a host; afterwards the host is restored bit for bit.

    Args:
        host: without LoRA.
        folder: of the adapter.
        host_folder: folder of the host.

    Raises:
        AdapterFileError: The LoRA does not fit this host, or adapts modules outside its language model.
    """
    check_lora_host(host, folder, host_folder)
    with with_lora(host.model, read_lora(folder)):
        if (name := module_outside_language_model(host.model)) is not None:
            raise AdapterFileError(f"{folder} adapts {name}, outside the language model of the host")
        yield


def check_lora_host(host: Host, folder: Path, host_folder: Path) -> None:
    """Refuse LoRA that was trained in another host.

    Raises:
        AdapterFileError: Kind or width of the host differ, or its weights, if the adapter records them.
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
