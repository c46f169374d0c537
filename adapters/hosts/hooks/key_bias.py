"""Hooks that add to the logits of the attention to each visual token, in all layers of an unmodified host.

The language model gets a 4-D mask that is added to the logits instead of its 2-D one. Gradients reach the bias through
it. The bias follows the prompt onto the cache, so that questions behind a shared video see the same.

Dimensions: B rows, L columns of the prompt, P columns in the cache, Q new ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.prompt.places import KEY_BIAS_HOOKS
from framefold.adapters.hosts.prompt.prepare import COMPACTED_NAME, CompactedPrompt
from framefold.errors import AttachError, InputError

from .layer_cache import KEY_BIAS
from .layer_start import check_checkpointing

ADDING = ("eager", "sdpa")  # attention implementations that add a 4-D mask to the logits

_BIAS: ContextVar[Tensor | None] = ContextVar("key_bias", default=None)  # from the host's pre-hook to the last layer


def install_key_bias(model: PreTrainedModel, compressor: Any) -> None:
    """Let the tokens of a compressor have a bias in the attention of a host; does nothing if they never have one."""
    if not getattr(compressor, "biases_keys", False) or hasattr(model, KEY_BIAS_HOOKS):
        return
    host: Any = model
    text: Any = family_of(model).language_model(model)
    handles = (
        host.register_forward_pre_hook(_before_host, with_kwargs=True),
        text.register_forward_pre_hook(_before_language_model, with_kwargs=True),
        text.register_forward_hook(_after_language_model, with_kwargs=True, always_call=True),
    )
    setattr(model, KEY_BIAS_HOOKS, handles)


def remove_key_bias(model: PreTrainedModel) -> None:
    """Undo :func:`install_key_bias`; does nothing if nothing is installed."""
    for handle in model.__dict__.get(KEY_BIAS_HOOKS, ()):
        handle.remove()
    model.__dict__.pop(KEY_BIAS_HOOKS, None)


@contextlib.contextmanager
def biased_keys(model: PreTrainedModel, compressor: Any) -> Iterator[None]:
    """Let the tokens of a compressor have a bias while prompts are prepared and run without ``attach``."""
    there = hasattr(model, KEY_BIAS_HOOKS)
    install_key_bias(model, compressor)
    try:
        yield
    finally:
        if not there:
            remove_key_bias(model)


def check_takes_bias(config: Any) -> None:
    """Check that the attention of a language model adds a mask to its logits, in every layer alike.

    Raises:
        AttachError: it does not; the message says what to do.
    """
    implementation = config._attn_implementation
    if implementation not in ADDING:
        raise AttachError(
            f"{implementation} takes no bias on visual tokens, with which this compressor is trained: load the host"
            " with attn_implementation='sdpa'"
        )
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if types != {"full_attention"}:
        raise AttachError(
            f"a bias on visual tokens needs layers of full attention, this host has {', '.join(sorted(types))}"
        )


def additive_mask(mask: Tensor | None, bias: Tensor, embeds: Tensor, past: int) -> Tensor:
    """Return the (B, 1, Q, P + Q) causal mask with the bias, to be added to the logits.

    Args:
        mask: (B, P + Q), columns that are not padding; None if there is none.
        bias: (B, L) of the prompt, which the cache or the new columns start with.
        embeds: (B, Q, D) states of the new columns.
        past: P.

    Raises:
        InputError: the mask is not 2-D, or there are other rows than in the prompt.
    """
    rows, new = embeds.shape[:2]
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise InputError("a compressor in training that biases the attention to its tokens needs a 2-D attention_mask")
    if len(bias) != rows:
        raise InputError(f"the bias on visual tokens is for {len(bias)} rows, but there are {rows}")
    key = torch.arange(past + new, device=embeds.device)
    seen = (key <= key[past:, None])[None]
    if mask is not None:
        seen = seen & mask[:, None].bool()
    autocast = torch.is_autocast_enabled(embeds.device.type)
    dtype = torch.get_autocast_dtype(embeds.device.type) if autocast else embeds.dtype  # that of the queries
    wide = torch.nn.functional.pad(bias.to(embeds.device), (0, past + new - bias.shape[1])).to(dtype)
    lowest = torch.finfo(dtype).min
    wide = wide.clamp_min(lowest / 2)  # -inf in every column that a row sees would be NaN
    return torch.where(seen[:, None], wide[:, None, None], lowest)


def _before_host(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep the bias of the prompt of this forward for the language model; runs after framefold's own pre-hook."""
    encoded = (kwargs.get("mm_encoder_outputs") or {}).get(family_of(model).modality)
    prompt: CompactedPrompt | None = getattr(encoded, COMPACTED_NAME, None)
    _BIAS.set(None if prompt is None else prompt_bias(prompt))


def prompt_bias(prompt: CompactedPrompt) -> Tensor | None:
    """Return the (B, L) bias of a prompt in fp32, with gradients; None if no video has one."""
    places = [place for place in prompt.places if place.key_bias is not None]
    if not places:
        return None
    values = torch.cat([place.key_bias.float() for place in places if place.key_bias is not None])
    columns = torch.cat([place.columns.to(values.device) for place in places])
    rows = torch.cat([torch.full_like(place.columns, place.row, device=values.device) for place in places])
    return values.new_zeros(prompt.mask.shape).index_put((rows, columns), values)


def _before_language_model(text: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    bias = _BIAS.get()
    if bias is None and past:
        bias = getattr(cache, KEY_BIAS, None)
    _BIAS.set(bias)
    if bias is None:
        return None
    if cache is not None and type(cache) is not DynamicCache:
        raise InputError(
            f"a bias on visual tokens needs a DynamicCache, not {type(cache).__name__}: drop cache_implementation"
        )
    check_takes_bias(text.config)
    check_checkpointing(text, bias)
    mask = additive_mask(kwargs.get("attention_mask"), bias, kwargs["inputs_embeds"], past)
    return args, {**kwargs, "attention_mask": mask}


def _after_language_model(text: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Put the bias on the cache, and forget it, also after an error inside a layer."""
    bias, cache = _BIAS.get(), getattr(output, "past_key_values", None)
    _BIAS.set(None)
    if cache is not None:
        setattr(cache, KEY_BIAS, bias)
