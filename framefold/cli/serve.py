"""``framefold serve``: start vLLM's server for a host with a compressor, after checking what can be checked."""

from __future__ import annotations

import json
import os
import shlex
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from typing import Any

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.registry import list_compressors
from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.adapters.serving.vllm.plugin import served_architecture
from framefold.adapters.serving.vllm.settings import KEY, ServingSettings
from framefold.errors import ConfigError, MissingExtraError, WrongHostError
from framefold.training.frozen_host.locate import HostFolder, find_host

# The module of the command vllm, and the one that it starts. Builds of vLLM under other names, as that for CPUs, have
# the command, but it ends with an error because it asks for the version of a package named vllm.
COMMAND, SERVER = "vllm.entrypoints.cli.main", "vllm.entrypoints.launchers.api_server.entry"

OURS = ("--model", "--hf-overrides", "--revision")  # options of the engine that this command sets


def serve(
    host: str,
    compressor: str | None = None,
    budget: Budget | None = None,
    params: dict[str, Any] | None = None,
    positions: Positions = "preserve",
    allow_other_host: bool = False,
    dry_run: bool = False,
    engine_options: list[str] | None = None,
) -> None:
    """Start vLLM's OpenAI server for a host whose videos are compressed, and print the line that does so.

    Words behind ``--`` are options of vLLM: ``framefold serve HOST --compressor sttm -- --port 9000``.

    Args:
        host: folder, or user/name or user/name@revision of a downloaded host on the Hub.
        compressor: folder of an adapter, its name on the Hub, or the name of a training-free compressor. None for a
            folder that contains one, written by 'framefold export --merge'.
        budget: retention ratio or number of tokens per video; None for the one of the adapter.
        params: parameters of a training-free compressor.
        positions: "preserve" gives a token the position of its anchor, as in training; "compact" renumbers the prompt,
            for hosts with 1-D positions; "all_axes" is the rule of published Qwen2-VL and Qwen2.5-VL for
            text behind a video.
        allow_other_host: serve an adapter that was trained in another host.
        dry_run: check everything and print the line, without starting the server.
        engine_options: options of vLLM; on the command line, the words behind --.

    Raises:
        HostError: there is no such host on this machine.
        ServingError: the host or the compressor cannot be served.
        WrongHostError: the adapter was trained in another host.
        MissingExtraError: vLLM is not installed.
    """
    found = find_host(host)
    settings = _settings(found, compressor, budget, params, positions, allow_other_host)
    settings, loaded = settings.resolved()
    _check_host(found, loaded.base_model, loaded.name, settings.allow_other_host)
    command = server_command(found, settings, engine_options or [])
    print(shlex.join(command), flush=True)
    if dry_run:
        return
    if find_spec("vllm") is None:
        raise MissingExtraError(
            "vllm is not installed: pip install 'vllm>=0.33,<0.34' on a machine with a GPU, or 'make serving' in a"
            " checkout for tests on CPUs"
        )
    os.execv(command[0], command)  # so that signals and the exit status are those of the server


def server_command(host: HostFolder, settings: ServingSettings, engine_options: list[str]) -> list[str]:
    """Return the command that starts the server.

    Raises:
        ServingError: no architecture of ours serves this type of host.
        ConfigError: an option of the engine is one that this command sets.
    """
    for option in engine_options:
        if option.partition("=")[0].replace("_", "-") in OURS:
            raise ConfigError(f"framefold serve sets {option.partition('=')[0]} itself: drop it")
    architecture = served_architecture(host.kind)
    overrides = {"architectures": [architecture], KEY: settings.to_dict()}
    repository, commit = hub_snapshot(str(host.folder)) or (str(host.folder), None)
    revision = ["--revision", commit] if commit else []
    words = [*revision, "--hf-overrides", json.dumps(overrides), *engine_options]
    if _has_command():
        return [sys.executable, "-m", COMMAND, "serve", repository, *words]
    return [sys.executable, "-m", SERVER, "--model", repository, *words]


def _has_command() -> bool:
    """Return whether the command vllm works, or would once vLLM is installed."""
    return "vllm" in packages_distributions().get("vllm", ["vllm"])


def _settings(
    host: HostFolder,
    compressor: str | None,
    budget: Budget | None,
    params: dict[str, Any] | None,
    positions: Positions,
    allow_other_host: bool,
) -> ServingSettings:
    if compressor is None:
        if KEY not in host.config:
            raise ConfigError(f"{host.name} contains no compressor: name one (--compressor)")
        given = host.config[KEY] | ({} if budget is None else {"budget": budget})
        return ServingSettings.from_dict(given).beside(host.folder)
    named = "compressor" if all(name in list_compressors() for name in compressor.split("+")) else "adapter"
    return ServingSettings.from_dict(
        {
            named: compressor,
            "budget": budget,
            "params": params or {},
            "positions": positions,
            "allow_other_host": allow_other_host,
        }
    )


def _check_host(host: HostFolder, trained: BaseModel, compressor: str, allowed: bool) -> None:
    problem = None if allowed else trained.difference(host.record(), host.folder)
    if problem is not None:
        raise WrongHostError(
            f"{compressor} is an adapter that was trained in {problem}: pass allow_other_host=True to serve it anyway"
        )
