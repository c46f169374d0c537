"""DeepSpeed ZeRO-3, and parameters that are read outside the forward of the module that owns them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn
from transformers import PreTrainedModel


def keep_gathered(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Let ZeRO-3 gather parameters for the backward of the host too; nothing happens without ZeRO-3.

    ZeRO-3 frees a module's parameters after its forward and gathers them again when a gradient of the module's outputs
    arrives. A compressor returns no bare tensors, so that moment is never seen, and the backward of whatever used a
    parameter would meet an empty one.

    Args:
        model: the host, or what holds it, whose outputs depend on the parameters.
        parameters: of the compressor, or of the host.
    """
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if sharded:
        import deepspeed

        for parameter in sharded:
            deepspeed.zero.register_external_parameter(model, parameter)


@contextlib.contextmanager
def gathered(model: PreTrainedModel, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Have parameters of a host whole inside, and again in its backward; nothing happens without ZeRO-3.

    Inside a forward of DeepSpeed's engine (when the host is part of a larger model) it gathers what is read itself, and
    what it has sent for already must not be gathered by anybody else.
    """
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not sharded or getattr(model._parameters, "_in_forward", False):
        yield
        return
    import deepspeed

    keep_gathered(model, sharded)
    with deepspeed.zero.GatheredParameters(sharded):
        yield
