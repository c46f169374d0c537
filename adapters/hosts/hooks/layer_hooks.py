"""Hooks that let a compressor reduce tokens inside the language model of an unmodified host.

They are pre-hooks on the decoder layers. The prompt's :class:`LayerRun` travels through them as a keyword argument,
which gradient checkpointing passes again to a layer that it recomputes. From the first decision on, states, rotations
and masks are short; before the last norm, every column takes the state of its last predecessor that is left, so that
logits, labels and losses have the length that callers know. The hooks are plain functions, so a model with hooks can be
copied and pickled.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from framefold.adapters.base.in_llm import InLLM
from framefold.adapters.hosts.base.attention_function import unwrap_attention, wrap_attention
from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.prompt.places import IN_LLM_HOOKS
from framefold.adapters.hosts.prompt.prepare import COMPACTED_NAME, CompactedPrompt
from framefold.errors import AttachError

from .layer_cache import AddedKeys, added_keys, check_cache, note_columns, step_arguments, store_added_keys
from .layer_layout import switch_layout
from .layer_run import AddedTokens, LayerRun
from .layer_start import start_run

RUN = "framefold_run"  # keyword arguments of the layers
ADDED = "framefold_added"

_PROMPT: ContextVar[tuple[CompactedPrompt, dict[str, Any]] | None] = ContextVar("prompt", default=None)
_RUN: ContextVar[LayerRun | None] = ContextVar("run", default=None)  # from the embeddings to the last norm
_DECIDING: ContextVar[tuple[LayerRun, int] | None] = ContextVar("deciding", default=None)  # inside a layer


@dataclass(frozen=True)
class LayerHooks:
    """What was installed in a host; the value of its attribute ``IN_LLM_HOOKS``.

    Attributes:
        acts: layers in which a stage acts.
        adds: layers in which it adds to the attention of text.
        site: site of the stage.
        reads: whether the stage reads attention.
        handles: handles of the hooks.
    """

    acts: tuple[int, ...]
    adds: tuple[int, ...]
    site: str
    reads: bool
    handles: tuple[RemovableHandle, ...]

    def fit(self, in_llm: InLLM, layers: int) -> bool:
        """Return whether a stage acts in a language model of n layers where the hooks are."""
        own = (in_llm.acts(layers), in_llm.adds(layers), in_llm.site, in_llm.reads)
        return own == (self.acts, self.adds, self.site, self.reads)

    @property
    def wrapped(self) -> set[int]:
        """Layers whose attention function is wrapped."""
        return {*self.adds, *(self.acts if self.site == "after_attention" else ())}


def install_layer_hooks(model: PreTrainedModel, in_llm: InLLM | None) -> None:
    """Let a stage act in the language model of a host; does nothing without one.

    Raises:
        AttachError: the host has such hooks already, has layers that the stage cannot act in, or too few layers.
    """
    if in_llm is None:
        return
    if hasattr(model, IN_LLM_HOOKS):
        raise AttachError("another compressor acts inside this language model already")
    host: Any = model
    text: Any = family_of(model).language_model(model)
    acts, adds = check_layers(model, in_llm), in_llm.adds(len(text.layers))
    handles = [
        host.register_forward_pre_hook(_before_host, with_kwargs=True),
        text.register_forward_pre_hook(_before_language_model, with_kwargs=True),
        text.register_forward_hook(_after_language_model, with_kwargs=True, always_call=True),
        text.norm.register_forward_pre_hook(_before_last_norm),
    ]
    for number, layer in enumerate(text.layers):
        hook = functools.partial(_before_layer, number)
        handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        if number in acts and in_llm.site == "after_attention":
            norm = layer.post_attention_layernorm
            handles.append(norm.register_forward_pre_hook(functools.partial(_before_mlp, number)))
    hooks = LayerHooks(acts, adds, in_llm.site, in_llm.reads, tuple(handles))
    for number in hooks.wrapped:
        wrap_attention(text.layers[number].self_attn, _attention)
    setattr(model, IN_LLM_HOOKS, hooks)


def remove_layer_hooks(model: PreTrainedModel) -> None:
    """Undo :func:`install_layer_hooks`; does nothing if nothing is installed."""
    hooks: LayerHooks | None = getattr(model, "__dict__", {}).get(IN_LLM_HOOKS)
    if hooks is None:
        return
    for handle in hooks.handles:
        handle.remove()
    text: Any = family_of(model).language_model(model)
    for number in hooks.wrapped:
        unwrap_attention(text.layers[number].self_attn)
    delattr(model, IN_LLM_HOOKS)


@contextlib.contextmanager
def in_llm(model: PreTrainedModel, compressor: Any) -> Iterator[None]:
    """Let a compressor act inside the language model while prompts are prepared and run without :func:`attach`.

    Args:
        model: the host.
        compressor: one that may have ``in_llm``; without it, or if the hooks that it needs are there, nothing is
            changed. Under gradient checkpointing, the hooks must still be there in the backward pass.

    Raises:
        AttachError: see :func:`install_layer_hooks`.
    """
    stage = getattr(compressor, "in_llm", None)
    there: LayerHooks | None = getattr(model, IN_LLM_HOOKS, None)
    layers = 0 if stage is None else len(family_of(model).decoder_layers(model))
    if stage is None or there is not None and there.fit(stage, layers):
        yield
        return
    install_layer_hooks(model, stage)
    try:
        yield
    finally:
        remove_layer_hooks(model)


def check_layers(model: PreTrainedModel, stage: InLLM) -> tuple[int, ...]:
    """Return the layers of a host in which a stage acts.

    Raises:
        AttachError: it cannot act in this language model.
    """
    text: Any = family_of(model).language_model(model)
    layers, acts = len(text.layers), stage.acts(len(text.layers))
    first = min(acts, default=0) + (stage.site == "after_attention")
    last = max(acts, default=0) + (stage.site == "after_attention")
    adds = stage.adds(layers)
    if adds and max(adds) >= layers:
        raise AttachError(
            f"{type(stage).__name__} adds in layers {list(adds)} (from 0) of a language model of {layers} layers"
        )
    if not (acts or adds) or acts and (first < 1 or last >= layers):
        raise AttachError(
            f"{type(stage).__name__} acts in layers {list(acts)} (from 0) of a language model of {layers} layers, but"
            " there must be at least one layer before and one behind"
        )
    types = set(getattr(text.config, "layer_types", None) or ["full_attention"])
    if not family_of(model).prefills_in_chunks(model):
        types.add("attention to later columns")
    if types != {"full_attention"}:
        raise AttachError(
            f"a compressor that acts inside the language model needs layers of full attention, this one has"
            f" {', '.join(sorted(types))}"
        )
    return acts


def _before_host(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep the prompt of this forward for the language model; runs after framefold's own pre-hook."""
    encoded = (kwargs.get("mm_encoder_outputs") or {}).get(family_of(model).modality)
    prompt: CompactedPrompt | None = getattr(encoded, COMPACTED_NAME, None)
    _PROMPT.set(None)
    if prompt is None or not any(place.plan for place in prompt.places):
        return
    hooks: LayerHooks = getattr(model, IN_LLM_HOOKS)
    if not all(place.plan and hooks.fit(place.plan.in_llm, place.plan.layers) for place in prompt.places):
        raise AttachError("the videos were compressed by another compressor than the one that acts in this host")
    _PROMPT.set((prompt, {name: kwargs.get(name) for name in ("labels", "shift_labels")}))


def _before_language_model(text: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Start the run of a prompt with videos and pass it to the layers."""
    _RUN.set(None)
    given = _PROMPT.get()
    _PROMPT.set(None)
    if given is None:
        if (cache := kwargs.get("past_key_values")) is not None:
            check_cache(cache)
        return None
    run, changes = start_run(text, *given, kwargs)
    _RUN.set(run)
    return args, {**kwargs, **changes, RUN: run}


def _after_language_model(text: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Forget the run, also after an error inside a layer."""
    _RUN.set(None)
    _DECIDING.set(None)


def _before_layer(number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give a layer the columns that are left."""
    run: LayerRun | None = kwargs.get(RUN)
    cache = kwargs.get("past_key_values")
    if run is None:
        if cache is None:
            return None
        changes = step_arguments(cache, number, args[0], kwargs, _takes_flat_masks(layer))
        if added := added_keys(cache, number):
            changes = {**(changes or kwargs), ADDED: added}
        return None if changes is None else (args, changes)
    kwargs = {**kwargs, ADDED: _keys_to_add(run, number, layer, cache)} if number in run.adds else kwargs
    if not run.is_read(number):
        kwargs = {name: value for name, value in kwargs.items() if name != RUN}  # attention functions may not know it
    before = run.layout(max(number - 1, 0))
    hidden = run.add_deepstack(number - 1, args[0])
    if run.site == "input" and number in run.acts:
        merged = run.decide(number, hidden)
        hidden = hidden if merged is None else merged
    now = run.layout(number)
    hidden = switch_layout(hidden, before, now)
    if now.trivial:
        return (hidden, *args[1:]), kwargs
    if cache is not None:
        note_columns(cache, run.mask.shape[1], run.start(number), now)
    return (hidden, *args[1:]), {**kwargs, **run.short_arguments(now, hidden, kwargs)}


def _keys_to_add(run: LayerRun, number: int, layer: Any, cache: Any) -> tuple[AddedTokens, ...]:
    """Return what is added to the attention of a layer; with a cache, later columns attend to the same keys."""
    if cache is not None and not (layer.training and getattr(layer, "gradient_checkpointing", False)):
        for added in run.added:
            added.stored[number] = added.keys(number)
        store_added_keys(cache, number, tuple(added.stored[number] for added in run.added))
    return run.added


def _takes_flat_masks(layer: Any) -> bool:
    config = layer.self_attn.config
    original, _ = getattr(config, "framefold_wrapped", (config, None))
    return "flash" in (original._attn_implementation or "")


def _attention(
    function: Callable[..., Any],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call the host's function in a layer in which a stage acts or adds; before, read one row, or afterwards, add."""
    run: LayerRun | None = kwargs.pop(RUN, None)
    added: tuple[AddedTokens | AddedKeys, ...] = kwargs.pop(ADDED, ())
    if run is not None:
        scaling = kwargs.get("scaling")
        if run.reads:
            run.observe(module.layer_idx, query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
        _DECIDING.set((run, module.layer_idx))
    out, weights = function(module, query, key, value, attention_mask, *args, **kwargs)
    for one in added:
        out = one.add(module.layer_idx, query, out)
    return out, weights


def _before_mlp(number: int, norm: nn.Module, args: tuple[Any, ...]) -> None:
    """Decide on the states after the self-attention, which are the tensor that the layer keeps as its residual."""
    deciding = _DECIDING.get()
    if deciding is None or deciding[1] != number:
        return
    _DECIDING.set(None)
    merged = deciding[0].decide(number, args[0])
    if merged is not None:
        args[0].copy_(merged)


def _before_last_norm(norm: nn.Module, args: tuple[Any, ...]) -> Any:
    """Give every column of the prompt the state of its last predecessor that is left."""
    run = _RUN.get()
    if run is None or run.last.trivial:
        return None
    hidden = run.add_deepstack(run.layers - 1, args[0])
    columns = run.last.cached("last", run.mask, run.last.compaction.last_kept).to(hidden.device)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    return (hidden[rows, columns], *args[1:])
