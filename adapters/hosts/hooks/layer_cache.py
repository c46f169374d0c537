"""What a cache holds besides the host's keys and values, for decoding after a prompt.

Where later layers have fewer columns than earlier ones: the host makes one attention mask for all layers, from the
columns that layer 0 has cached. What is left of a prompt is seen by every later column, so a layer with fewer columns
needs ones for these, its own padding, and the end of the host's mask. Nothing else of it depends on the row.

Where text attends to tokens outside of the context: their keys and values, which follow the rows of the cache.

Dimensions: B rows, L columns of the prompt, L' columns that a layer has cached of it, M columns since, Q new ones; S
tokens outside of the context, h heads, g key-value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from framefold.adapters.base.added_attention import AddedAttention
from framefold.errors import InputError

from .layer_layout import ColumnLayout

CACHED_NAME = "framefold_layers"  # attributes of the cache
KEY_BIAS = "framefold_key_bias"


@dataclass(eq=False)
class CachedColumns:
    """What layers have cached of a prompt, from some layer on.

    Attributes:
        columns: L'.
        padding: (B, L') bool; None if there is none.
    """

    columns: int
    padding: Tensor | None
    _step: tuple[Any, Any] = (None, None)  # the last mask of the host and what became of it

    def select_rows(self, rows: Tensor) -> None:
        """Follow a selection of rows of the cache."""
        if self.padding is not None:
            self.padding = self.padding[rows.to(self.padding.device)]
        self._step = (None, None)

    def mask(self, host: Tensor, prompt: int) -> Tensor:
        """Return the mask of these layers, given that of the host, once per step."""
        if self._step[0] is not host:
            self._step = host, self._replace_prompt(host, prompt)
        return self._step[1]

    def _replace_prompt(self, host: Tensor, prompt: int) -> Tensor:
        """Replace the prompt's L columns by L': (B, ..., L + M + Q) -> (B, ..., L' + M + Q)."""
        since = host[..., prompt:]
        seen, hidden = 1, 0  # 2-D masks
        if host.dtype == torch.bool:
            seen, hidden = True, False
        elif host.is_floating_point():  # added to the logits
            seen, hidden = 0, torch.finfo(host.dtype).min  # type: ignore[assignment]
        front = host.new_full((*since.shape[:-1], self.columns), seen)
        if self.padding is not None:
            padding = self.padding.to(host.device)
            front = front.masked_fill(padding if host.ndim == 2 else padding[:, None, None], hidden)
        return torch.cat([front, since], -1)

    def mask_of_padding(self, since: int, flat: bool) -> Tensor:
        """Return the mask where the host needs none: (B, L' + since) if ``flat``, otherwise (B, 1, 1, L' + since)."""
        assert self.padding is not None
        later = self.padding.new_ones(len(self.padding), since)
        mask = torch.cat([~self.padding, later], -1)
        return mask if flat else mask[:, None, None]


@dataclass(eq=False)
class CachedLayers:
    """What the layers have cached of a prompt.

    Attributes:
        prompt: L.
        starts: by the first layer for which they hold.
    """

    prompt: int
    starts: dict[int, CachedColumns] = field(default_factory=dict)

    def of(self, layer: int) -> CachedColumns | None:
        """Return what a layer has cached; None if it has all columns."""
        starts = [start for start in self.starts if start <= layer]
        return self.starts[max(starts)] if starts else None


def note_columns(cache: Any, prompt: int, start: int, layout: ColumnLayout) -> None:
    """Record on the cache how many columns of the prompt layers cache.

    Args:
        cache: the host's cache.
        prompt: L.
        start: first layer with this layout.
        layout: columns of the layers.
    """
    layers: CachedLayers | None = getattr(cache, CACHED_NAME, None)
    if layers is None:
        layers = CachedLayers(prompt)
        setattr(cache, CACHED_NAME, layers)
    if start not in layers.starts:
        padding = ~layout.mask
        layers.starts[start] = CachedColumns(layout.compaction.n_after, padding if bool(padding.any()) else None)


def select_cache_rows(cache: Any, rows: Tensor) -> None:
    """Select rows of a cache, some of them several times, for continuations of their prompts.

    Use it instead of ``cache.batch_select_indices``, which knows neither the padding inside the language model nor a
    bias on visual tokens.
    """
    if all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers):
        for layer in cache.layers:  # equal to the method, in a quarter of the time on a CPU
            at = rows.to(layer.keys.device)
            layer.keys, layer.values = layer.keys.index_select(0, at), layer.values.index_select(0, at)
    else:
        for layer in cache.layers:  # layers with a state have no method of that name
            getattr(layer, "batch_select_indices", layer.reorder_cache)(rows)
    if (bias := getattr(cache, KEY_BIAS, None)) is not None:
        setattr(cache, KEY_BIAS, bias[rows.to(bias.device)])
    layers: CachedLayers | None = getattr(cache, CACHED_NAME, None)
    for columns in layers.starts.values() if layers is not None else ():
        columns.select_rows(rows)


def check_cache(cache: Any) -> None:
    """Forget what a cache says about a prompt that it no longer contains.

    Raises:
        InputError: the cache was cropped inside the prompt.
    """
    layers: CachedLayers | None = getattr(cache, CACHED_NAME, None)
    if layers is None:
        return
    length = int(cache.get_seq_length())
    if length == 0:
        delattr(cache, CACHED_NAME)
    elif length < layers.prompt:
        raise InputError("this cache was cropped inside its compressed prompt: start again from the full conversation")


def step_arguments(cache: Any, layer: int, hidden: Tensor, kwargs: dict[str, Any], flat: bool) -> dict[str, Any] | None:
    """Return the arguments of a layer for columns after the prompt; None if they stay as they are.

    Args:
        cache: the host's cache.
        layer: number of the layer.
        hidden: (B, Q, D) states that enter it.
        kwargs: its arguments.
        flat: whether its attention takes 2-D masks, as flash attention does.

    Raises:
        InputError: the rows of the cache have changed, and there is padding inside the language model.
    """
    layers: CachedLayers | None = getattr(cache, CACHED_NAME, None)
    columns = None if layers is None else layers.of(layer)
    if layers is None or columns is None:
        return None
    mask, padding = kwargs.get("attention_mask"), columns.padding
    if mask is None and padding is None:
        return None  # nothing is masked
    if padding is not None and len(padding) != len(hidden):
        raise InputError(
            "the rows of this cache were repeated or selected, but videos left different numbers of tokens inside the"
            " language model: prefill one row at a time, or pass complete prompts"
        )
    if mask is None:  # one new column per row, or the host would have made a mask
        since = int(cache.get_seq_length(0)) - layers.prompt  # layer 0, which has all columns, has cached the new one
        mask = columns.mask_of_padding(since, flat).to(hidden.device)
    else:
        mask = columns.mask(mask, layers.prompt)
    return {**kwargs, "attention_mask": mask}


@dataclass(frozen=True)
class Shared:
    """A module that copies of a cache share, although they are deep copies."""

    stage: AddedAttention

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


@dataclass(eq=False)
class AddedKeys:
    """Keys and values of tokens outside of the context in one layer.

    Attributes:
        shared: what computes the attention.
        keys: (B, g, S, d).
        values: (B, g, S, d).
        mask: (B, S) bool, False for padding.
    """

    shared: Shared
    keys: Tensor
    values: Tensor
    mask: Tensor

    def add(self, layer: int, query: Tensor, out: Tensor) -> Tensor:
        """Return the output of the self-attention of a layer, (B, Q, h, d), with what is added to all columns.

        Args:
            layer: number of the layer.
            query: (B, h, Q, d) after rotation.
            out: (B, Q, h, d).

        Raises:
            InputError: there are other rows than in the cache.
        """
        if len(self.keys) != len(query):
            raise InputError(
                f"the cache has keys of the video for {len(self.keys)} rows, but there are {len(query)}: repeat or"
                " select rows by the methods of the cache"
            )
        return self.shared.stage.add(layer, query, out, self.keys, self.values, self.mask.to(out.device))

    def select(self, rows: Callable[[Tensor], Tensor]) -> AddedKeys:
        """Return the same with rows that a function selects."""
        return replace(self, keys=rows(self.keys), values=rows(self.values), mask=rows(self.mask))


class LayerWithAddedKeys(DynamicLayer):
    """A layer of a cache that also holds keys and values of tokens outside of the context."""

    added: tuple[AddedKeys, ...] = ()

    def reset(self) -> None:
        super().reset()
        self.added = ()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._select(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._select(lambda rows: rows[indices.to(rows.device)])

    def _select(self, rows: Callable[[Tensor], Tensor]) -> None:
        self.added = tuple(one.select(rows) for one in self.added)


def store_added_keys(cache: Any, layer: int, added: tuple[AddedKeys, ...]) -> None:
    """Store keys and values of tokens outside of the context in a layer of a cache."""
    while len(cache.layers) <= layer:
        cache.layers.append(cache.layer_class_to_replicate())
    new = LayerWithAddedKeys()
    new.__dict__.update(cache.layers[layer].__dict__)
    new.added = added
    cache.layers[layer] = new


def added_keys(cache: Any, layer: int) -> tuple[AddedKeys, ...]:
    """Return what :func:`store_added_keys` has stored, unless the cache no longer contains the prompt."""
    layers = getattr(cache, "layers", ())
    found = layers[layer] if layer < len(layers) else None
    if not isinstance(found, LayerWithAddedKeys) or not found.added:
        return ()
    if found.get_seq_length() == 0:
        found.added = ()
    return found.added
