"""A device by name; cuda where there is one and nothing is said."""

from __future__ import annotations

from typing import Any

import torch

from framefold.errors import ConfigError


def device_of(name: str | None) -> torch.device:
    """A device by name; cuda where there is one and nothing is said."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"no device is called {name!r}; cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device {name} is not there; cpu or, with a GPU, cuda")
    return device


def move_inputs(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """Inputs on the device of the model, pixels in its dtype; other numbers, such as seconds a step, keep theirs."""

    def moved(name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(model.device, model.dtype if name.startswith("pixel_values") else None)

    return {name: moved(name, value) for name, value in inputs.items()}


def add_video_inputs(inputs: dict[str, Any], times: torch.Tensor) -> dict[str, Any]:
    """Inputs of a host with a compressor attached, which is told the (G,) seconds of the steps of the token grid."""
    told: dict[str, Any] = {"times": [times]}
    if "pixel_values_videos" not in inputs:  # frames are images: all of them are this video, even a single one
        told["clips"] = [0] * len(times)
    return inputs | told
