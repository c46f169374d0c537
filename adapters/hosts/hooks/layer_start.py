"""Start the run of a prompt through the decoder layers: what asks, where the videos are, and what cannot be run.

Dimensions: B rows, L columns of the prompt, S tokens outside of the context, D width, T text columns.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from framefold.adapters.base.added_attention import AddedAttention
from framefold.adapters.hosts.prompt.places import VideoPlace
from framefold.adapters.hosts.prompt.prepare import CompactedPrompt
from framefold.errors import InputError

from .layer_cache import CACHED_NAME
from .layer_layout import Deepstack, first_layout
from .layer_run import AddedTokens, LayerRun

IGNORE = -100  # label of columns that are not trained


def start_run(
    text: Any, prompt: CompactedPrompt, labels: Mapping[str, Any], kwargs: dict[str, Any]
) -> tuple[LayerRun, dict[str, Any]]:
    """Return the run of a prompt and the changed arguments of the language model.

    Args:
        text: the language model.
        prompt: the shortened prompt.
        labels: ``labels`` and ``shift_labels`` of the host, or None.
        kwargs: arguments of the language model.

    Raises:
        InputError: the stage cannot act on these inputs; the message says what to do.
    """
    _check_arguments(kwargs, drops=any(place.plan is not None and place.plan.counts for place in prompt.places))
    embeds, given = kwargs["inputs_embeds"], kwargs.get("attention_mask")
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if given is None else given.bool()
    places = _repeat_rows(prompt, len(mask))
    plan = next(place.plan for place in places if place.plan is not None)
    acts, layers = plan.in_llm.acts(plan.layers), plan.layers
    asks = asking_columns(prompt.mask, labels, mask)
    if plan.in_llm.reads:
        _check_asking(asks, places)
    tokens, columns = [place.tokens for place in places], [place.columns for place in places]
    on_left = bool((~mask[:, 0]).any()) or not bool((~mask[:, -1]).any())
    first_short = min(acts) + (plan.in_llm.site == "after_attention") if acts else layers
    deepstack, changes = _hold_deepstack(kwargs, first_short)
    memory = [place.plan.in_llm.begin(place.tokens, layers, place.plan.handover) for place in places if place.plan]
    run = LayerRun(
        places,
        acts,
        plan.in_llm.site,
        plan.in_llm.reads,
        mask,
        asks,
        "left" if on_left else "right",
        layers,
        functools.partial(_host_mask, text.config),
        {0: first_layout(mask, tokens, columns)},
        deepstack,
        memory,
        _added_tokens(text, prompt, places, memory, mask),
    )
    if (cache := kwargs.get("past_key_values")) is not None and hasattr(cache, CACHED_NAME):
        delattr(cache, CACHED_NAME)  # of an earlier prompt
    return run, changes


def asking_columns(prompt: Tensor, labels: Mapping[str, Any], mask: Tensor) -> Tensor:
    """Return the (B,) column whose attention counts: the last one of the prompt, before any label.

    Args:
        prompt: (B', L') mask of the prompt alone, also if the host's inputs continue behind it; B is a multiple of B'.
        labels: ``labels`` and ``shift_labels`` of the host, or None.
        mask: (B, L) mask of the host's inputs.
    """
    column = torch.arange(mask.shape[1], device=mask.device)
    real = mask.clone()
    width = min(prompt.shape[1], mask.shape[1])
    real[:, :width] &= prompt.bool().repeat_interleave(len(mask) // len(prompt), 0)[:, :width].to(mask.device)
    real[:, width:] = False
    for name, shift in (("labels", 0), ("shift_labels", 1)):  # a shifted label belongs to the next column
        if (values := labels.get(name)) is not None:
            labelled = (values != IGNORE).long()
            first = torch.where(labelled.any(-1), labelled.argmax(-1) + shift, mask.shape[1])
            real &= column < first[:, None]
    return (real.long() * (column + 1)).argmax(-1)


def _check_arguments(kwargs: Mapping[str, Any], drops: bool) -> None:
    cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
    if cache is not None and (type(cache) is not DynamicCache or getattr(cache, "offloading", False)):
        raise InputError(
            "a compressor that acts inside the language model leaves different numbers of columns in different layers,"
            " or adds keys to them. Only DynamicCache, without offloading, holds them, not"
            f" {type(cache).__name__}: drop cache_implementation"
        )
    if cache is not None and cache.get_seq_length():
        raise InputError(
            "a compressor that acts inside the language model needs the complete prompt in one forward: a video cannot"
            " follow a filled cache"
        )
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise InputError("a compressor that acts inside the language model needs a 2-D attention_mask")
    if drops and kwargs.get("output_router_logits"):
        raise InputError(
            "output_router_logits cannot be used with a compressor that acts inside the language model, because the"
            " host's balance loss joins layers of different lengths: drop it"
        )


def _repeat_rows(prompt: CompactedPrompt, rows: int) -> list[VideoPlace]:
    """Return the places in a batch in which beams or samples repeat the rows of the prompt."""
    copies = rows // len(prompt.mask)
    return [replace(place, row=place.row * copies + copy) for place in prompt.places for copy in range(copies)]


def _added_tokens(
    text: Any, prompt: CompactedPrompt, places: Sequence[VideoPlace], memory: Sequence[Any], mask: Tensor
) -> tuple[AddedTokens, ...]:
    """Return, for each stage that adds to the attention of text, the tokens and the columns that attend to them.

    Raises:
        InputError: the layers are checkpointed in a way that cannot return gradients to these tokens.
    """
    added = []
    plans = [place.plan for place in places]
    stages = {plan.in_llm: None for plan in plans if plan is not None and isinstance(plan.in_llm, AddedAttention)}
    for stage in stages:
        own = [number for number, plan in enumerate(plans) if plan is not None and plan.in_llm is stage]
        rows = [[memory[number] for number in own if places[number].row == row] for row in range(len(mask))]
        tokens = pad_sequence([torch.cat(row) if row else memory[own[0]][:0] for row in rows], batch_first=True)
        lengths = torch.tensor([sum(map(len, row)) for row in rows], device=tokens.device)
        has_tokens = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        columns = _text_columns(prompt, mask) & (lengths > 0).to(mask.device)[:, None]
        order = columns.long().argsort(dim=-1, descending=True, stable=True)[:, : int(columns.sum(-1).max())]
        check_checkpointing(text, tokens)
        added.append(AddedTokens(stage, tokens, has_tokens, order, columns.gather(1, order)))
    return tuple(added)


def _text_columns(prompt: CompactedPrompt, mask: Tensor) -> Tensor:
    """Return (B, L) bool, the columns of the host's inputs that are neither visual nor padding."""
    assert prompt.visual is not None
    visual = torch.zeros_like(mask)
    width = min(prompt.visual.shape[1], mask.shape[1])
    visual[:, :width] = prompt.visual.repeat_interleave(len(mask) // len(prompt.visual), 0)[:, :width].to(mask.device)
    return mask & ~visual


def check_checkpointing(text: Any, tokens: Tensor) -> None:
    """Refuse reentrant checkpointing if gradients must leave the layers by another way than their inputs."""
    layer = text.layers[0]
    recomputed = text.training and getattr(layer, "gradient_checkpointing", False)
    if not (recomputed and tokens.requires_grad and torch.is_grad_enabled()):
        return
    if getattr(layer._gradient_checkpointing_func, "keywords", {}).get("use_reentrant", True):
        raise InputError(
            "tokens outside of the context, or a bias on visual tokens, need gradients, which reentrant checkpointing"
            " cannot return from several layers: call"
            " gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})"
        )


def _check_asking(asks: Tensor, places: list[VideoPlace]) -> None:
    """Check that text behind each video asks: an earlier column sees no token, and a token could be dropped itself."""
    for place in places:
        asking, last = int(asks[place.row]), int(place.columns[-1])
        if asking <= last:
            raise InputError(
                f"row {place.row}: no text between the video, which ends in column {last} of the shortened prompt, and"
                " the first label asks which tokens to keep: pass the question in the same forward as the video, and"
                " label only the answer (-100 elsewhere)"
            )


def _hold_deepstack(kwargs: dict[str, Any], first_short: int) -> tuple[Deepstack | None, dict[str, Any]]:
    """Take from the host the features of layers that may have fewer columns."""
    layers = kwargs.get("deepstack_visual_embeds")
    if layers is None or first_short >= len(layers):
        return None, {}
    held = {layer: layers[layer] for layer in range(first_short, len(layers))}
    return Deepstack(held, kwargs["visual_pos_masks"]), {"deepstack_visual_embeds": list(layers[:first_short])}


def _host_mask(config: Any, hidden: Tensor, mask: Tensor) -> Any:
    """Return the mask of the host's own making: none, 4-D, 2-D or a block mask, as its attention takes it."""
    return create_causal_mask(
        config=config,
        inputs_embeds=hidden,
        attention_mask=mask.to(hidden.device).long(),
        past_key_values=None,
        position_ids=None,
    )
