"""Gather parameters under DeepSpeed ZeRO-3 that are read outside the forward of the module that owns them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn
from transformers import PreTrainedModel


def keep_gathered(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Make ZeRO-3 gather parameters in the backward of the host too; a no-op without ZeRO-3.

    ZeRO-3 frees a module's parameters after its forward and gathers them again when a gradient of the module's outputs
    arrives. A compressor does not return bare tensors, so ZeRO-3 never detects that gradient, and the backward would
    read empty parameters.

    Args:
        model: the host, or a module that contains it, whose outputs depend on the parameters.
        parameters: parameters of the compressor or of the host.
    """
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if sharded:
        import deepspeed

        for parameter in sharded:
            deepspeed.zero.register_external_parameter(model, parameter)


@contextlib.contextmanager
def gathered(model: PreTrainedModel, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gather parameters of a host inside the context, and again in its backward; a no-op without ZeRO-3.

    Inside a forward of DeepSpeed's engine (the host is part of a larger model), the engine gathers what is read, and
    parameters that it is already fetching must not be gathered a second time.
    """
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not sharded or getattr(model._parameters, "_in_forward", False):
        yield
        return
    import deepspeed

    keep_gathered(model, sharded)
    with deepspeed.zero.GatheredParameters(sharded):
        yield
