"""Wrap the attention function of one attention module of a transformers model, for any attention implementation.

The module gets a copy of its configuration that names :func:`_attention`, which calls the wrapper with the function
that the host would have used. Other modules share the original configuration and are not affected.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WRAPPED_NAME = "framefold"

Wrapper = Callable[..., Any]
"""Called as (function, module, query, key, value, attention_mask, *args, **kwargs), with the host's own function."""


def wrap_attention(module: nn.Module, wrapper: Wrapper) -> None:
    """Call a wrapper instead of the attention function of a module, until :func:`unwrap_attention`.

    Args:
        module: attention module with ``config``.
        wrapper: a function or another object that can be copied and pickled, as the model may be.
    """
    any_module: Any = module
    original = any_module.config
    any_module.config = copy.copy(original)  # the layers share one config
    any_module.config._attn_implementation_internal = WRAPPED_NAME
    any_module.config.framefold_wrapped = (original, wrapper)


def unwrap_attention(module: nn.Module) -> None:
    """Restore the configuration of a module before :func:`wrap_attention`."""
    any_module: Any = module
    any_module.config = any_module.config.framefold_wrapped[0]


def host_attention(module: nn.Module, implementation: str) -> Callable[..., Any]:
    """Return the attention function that a module uses for an implementation."""
    function = ALL_ATTENTION_FUNCTIONS.get(implementation)
    if function is not None:
        return function
    files = (vars(sys.modules[cls.__module__]) for cls in type(module).__mro__)
    return next(file["eager_attention_forward"] for file in files if "eager_attention_forward" in file)


def _attention(module: Any, *args: Any, **kwargs: Any) -> Any:
    original, wrapper = module.config.framefold_wrapped
    return wrapper(host_attention(module, original._attn_implementation), module, *args, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(WRAPPED_NAME, _attention)
