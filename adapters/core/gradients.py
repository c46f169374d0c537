"""Gradients of zero for parameters that the loss does not depend on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def zero_times_parameters(module: nn.Module) -> Tensor:
    """Return a scalar zero that depends on every trainable parameter of a module.

    Added to an output or to the loss, it gives each parameter a gradient on every step. A parameter without a gradient
    hangs DDP and aborts ZeRO-1 and ZeRO-2. Parameters that are sharded at the moment are skipped: under ZeRO-3 and
    FSDP2 those of a LoRA layer exist in full only during the forward of that layer.
    """
    from torch.distributed.tensor import DTensor

    zero = torch.zeros(())
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.numel() and not isinstance(parameter, DTensor):
            zero = zero.to(parameter.device) + parameter.sum() * 0.0
    return zero
