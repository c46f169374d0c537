"""Activation checkpointing of the decoder layers of a frozen host.

A checkpointed layer keeps its input, and its keys and values where questions continue a prompt; everything else is
computed again for the gradients. transformers' own checkpointing needs the host in training mode and drops the cache,
on which the questions of a video continue its prefill, so the layers are wrapped here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from framefold.adapters.hosts.base.family import family_of


def checkpoint_layers(model: Any) -> None:
    """Recompute the activations of the decoder layers of a host in each backward pass; forwards do not change.

    Modules and hooks inside of a layer run again; hooks of the layer itself do not.
    """
    for number, layer in enumerate(family_of(model).decoder_layers(model)):
        own: Any = layer
        own.forward = functools.partial(_checkpointed, layer.forward, number)


def _checkpointed(forward: Callable[..., Any], number: int, *args: Any, **kwargs: Any) -> Any:
    """Run a layer, and keep what is needed to run it again."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    cache = kwargs.get("past_key_values")
    if cache is not None:
        forward, kwargs = _OnCache(forward, cache, number), {**kwargs, "past_key_values": None}
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


class _OnCache:
    """The forward of a layer that extends a cache: at first the given one, and then copies of what that one was.

    The keys and values that the first run leaves in the cache belong to the graph, as the output of the layer does.
    """

    def __init__(self, forward: Callable[..., Any], cache: Any, number: int) -> None:
        self.forward = forward
        self.first: Any = cache  # not kept, because it will contain what is recomputed
        self.before = copy(cache)
        self.before.layers = [*[None] * number, *map(copy, cache.layers[number : number + 1])]  # the others grow

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        cache, self.first = self.first, None
        if cache is None:
            cache = copy(self.before)
            cache.layers = list(map(copy, self.before.layers))
        return self.forward(*args, **{**kwargs, "past_key_values": cache})
