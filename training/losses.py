"""The training loss: answer cross-entropy plus what the compressor adds, weighted by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..adapters.errors import ConfigError


def check_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Validate loss weights.

    Raises:
        ConfigError: a weight is negative, or all are zero.
    """
    if any(weight < 0 for weight in weights.values()) or (weights.get("answer", 1.0) == 0 and len(weights) == 1):
        raise ConfigError(f"loss weights must not be negative, and not all zero, got {dict(weights)}")
    return dict(weights)


def total_loss(answer: Tensor, extras: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum, scalar.

    Args:
        answer: mean cross-entropy (nats) of the answer tokens.
        extras: the compressor's own losses, already in the proportion that its method wants.
        weights: by name, 1 where a name is missing.

    Raises:
        ConfigError: a weight for a loss that this compressor does not return.
    """
    parts = {"answer": answer, **extras}
    unknown = sorted(weights.keys() - parts.keys())
    if unknown:
        raise ConfigError(f"no loss is called {', '.join(unknown)}; this compressor has {', '.join(sorted(parts))}")
    total = answer * weights.get("answer", 1.0)
    for name, value in extras.items():
        total = total + value * weights.get(name, 1.0)
    return total


def touch(module: nn.Module) -> Tensor:
    """A zero that depends on every trainable parameter that is here.

    Added to the loss, it gives each of them a gradient at each step: one without hangs DDP and aborts ZeRO-1/2. Under
    ZeRO-3 parameters are away outside of their module's forward, and it is left to compressors to use them all.
    """
    zero = torch.zeros(())
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.numel():
            zero = zero.to(parameter.device) + parameter.sum() * 0.0
    return zero
