"""One folder with a host and an adapter: ``framefold export --merge``. Nothing in it is executed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from framefold.adapters.hosts.lora.inject import inject_lora, restore_on_error
from framefold.adapters.pretrained.base_model import BaseModel
from framefold.adapters.serving.vllm.plugin import served_architecture
from framefold.adapters.serving.vllm.settings import KEY, ServingSettings, check_servable
from framefold.errors import ConfigError, HostError, WrongHostError
from framefold.files import weights_digest, write_json
from framefold.training.export.write import Adapter
from framefold.training.frozen_host.locate import CONFIG, HostFolder

ADAPTER = "framefold"  # folder of the adapter in that of the host

# What a host needs besides its weights. Pickled weights and Python files are left out: loading them executes code.
DATA_FILES = (".json", ".jinja", ".txt", ".model", ".md")
WEIGHTS = ".safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


def merge_into_host(adapter: Adapter, host: HostFolder, out: Path, allow_other_host: bool = False) -> Path:
    """Write a host and an adapter as one folder, with LoRA added to the weights of the language model.

    Args:
        adapter: the adapter.
        host: the host.
        out: the folder, which must not exist or be empty.
        allow_other_host: accept an adapter that was trained in another host.

    Raises:
        ServingError: the host or the compressor cannot be served.
        WrongHostError: the adapter was trained in another host.
        HostError: the host has no weights in safetensors.
        ConfigError: the folder exists and is not empty.
        MissingExtraError: the adapter has LoRA, and PEFT is not installed.
    """
    architecture = served_architecture(host.kind)
    check_servable(adapter.compressor)
    problem = BaseModel.from_config(adapter.fields).difference(host.record(), host.folder)
    if problem is not None and not allow_other_host:
        raise WrongHostError(
            f"{adapter.source} was trained in {problem}: pass allow_other_host=True to merge it anyway"
        )
    if not any(host.folder.glob(f"*{WEIGHTS}")):
        raise HostError(f"{host.name} has no weights in safetensors, and others are not merged: convert it first")
    if out.is_dir() and any(out.iterdir()) or out.is_file():
        raise ConfigError(f"{out} exists and is not empty: give another --out")
    stage = out.with_name(f".{out.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    try:
        _write_host(adapter, host, stage)
        _write_adapter(adapter, host, stage)
        _write_config(adapter, host, stage, architecture)
        if out.is_dir():
            out.rmdir()
        stage.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return out


def _write_host(adapter: Adapter, host: HostFolder, stage: Path) -> None:
    endings = DATA_FILES if adapter.lora is not None else (*DATA_FILES, WEIGHTS)
    for file in sorted(host.folder.iterdir()):
        if file.is_file() and file.suffix in endings and file.name != CONFIG:
            shutil.copyfile(file, stage / file.name)  # of a snapshot of the Hub, which has links
    if adapter.lora is None:
        return
    from framefold.training.frozen_host.load import load_model  # needs PyAV

    (stage / WEIGHTS_INDEX).unlink(missing_ok=True)
    model = load_model(host, "auto", torch.device("cpu"))
    with restore_on_error(model, adapter.lora.file):
        merged: Any = inject_lora(model, adapter.lora)
    merged.merge_and_unload().save_pretrained(stage)


def _write_adapter(adapter: Adapter, host: HostFolder, stage: Path) -> None:
    """Write the adapter, with the merged weights as those of its host."""
    of_host = BaseModel(kind=host.kind, width=host.record().width, weights=weights_digest(stage)).to_config()
    known = BaseModel.from_config(adapter.fields).to_config()
    fields = {key: value for key, value in adapter.fields.items() if key not in known and key != "lora"}
    replace(adapter, fields=fields | of_host, lora=None).save(stage / ADAPTER)


def _write_config(adapter: Adapter, host: HostFolder, stage: Path, architecture: str) -> None:
    settings = ServingSettings(adapter=ADAPTER, budget=adapter.compressor.budget)
    config = {name: value for name, value in host.config.items() if name != "auto_map"}
    write_json(stage / CONFIG, config | {"architectures": [architecture], KEY: settings.to_dict()}, indent=2)
