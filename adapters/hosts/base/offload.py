"""Hosts whose weights accelerate keeps elsewhere between forwards (``device_map``, CPU and disk offload).

Their parameters are on the meta device, and hooks of accelerate load those of a module around its forward. Code that
runs outside these forwards asks here where a host computes, and loads what it reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def execution_device(model: PreTrainedModel) -> torch.device:
    """Return the device on which a host embeds its prompt; meta only if the host cannot run."""
    embeddings: Any = model.get_input_embeddings()
    if (device := embeddings.weight.device).type != "meta":
        return device
    name = next(name for name, module in model.named_modules() if module is embeddings)
    parts = name.split(".")
    around = [".".join(parts[:end]) for end in range(len(parts), -1, -1)]  # from the inside out
    for module in map(model.get_submodule, around):
        if (found := _hook_device(module)) is not None:
            return found
    devices: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    own = next((devices[prefix] for prefix in around if prefix in devices), None)
    if own in ("cpu", "disk"):  # offloaded: computed on the first other device
        own = next((other for other in devices.values() if other not in ("cpu", "disk")), "cpu")
    return device if own is None else torch.device(own)


def weights_device(module: nn.Module, default: torch.device) -> torch.device:
    """Return the device of a module's parameters or, if they are offloaded, the one they are loaded to.

    Args:
        module: the module.
        default: returned if it has no parameters.
    """
    parameter = next(module.parameters(), None)
    if parameter is None or not parameter.is_meta:
        return default if parameter is None else parameter.device
    return next(filter(None, map(_hook_device, module.modules())), parameter.device)


@contextlib.contextmanager
def loaded(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Load the offloaded parameters of modules, without those of their submodules; a no-op for other hosts."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            for hook in _hooks_of(module):
                if getattr(hook, "offload", False):
                    hook.pre_forward(module)
                    stack.callback(hook.post_forward, module, None)
        yield


def is_offloaded(module: nn.Module) -> bool:
    """Return whether hooks load the parameters of a module before its forward."""
    return any(getattr(hook, "offload", False) for hook in _hooks_of(module))


def _hook_device(module: nn.Module) -> torch.device | None:
    devices = (getattr(hook, "execution_device", None) for hook in _hooks_of(module))
    return next((torch.device(device) for device in devices if device is not None), None)


def _hooks_of(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))
