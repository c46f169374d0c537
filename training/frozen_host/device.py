"""Devices by name, and inputs of a host on its device."""

from __future__ import annotations

from typing import Any

import torch

from framefold.errors import ConfigError


def resolve_device(name: str | None) -> torch.device:
    """Return a device by name; None selects cuda if it is available, else cpu.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"no device is called {name!r}; use cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {name} is not available; use cpu or, with a GPU, cuda")
    return device


def move_inputs(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """Move inputs to the device of the model, pixels also to its dtype; other values keep their dtype."""

    def moved(name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(model.device, model.dtype if name.startswith("pixel_values") else None)

    return {name: moved(name, value) for name, value in inputs.items()}


def add_video_inputs(inputs: dict[str, Any], times: torch.Tensor) -> dict[str, Any]:
    """Add the inputs that a host with an attached compressor takes besides those of its processor.

    Args:
        inputs: of a prompt with one video.
        times: (G,) seconds of the steps of the token grid.
    """
    added: dict[str, Any] = {"times": [times]}
    if "pixel_values_videos" not in inputs:  # the host takes frames as images; all of them belong to this video
        added["clips"] = [0] * len(times)
    return inputs | added
