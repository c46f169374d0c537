"""Which columns of a prompt are left from some decoder layer on. Only tensors; no hooks, no host.

Dimensions: B rows, L columns of the prompt that enters the language model, L' columns that are left, P placeholders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.prompt.compaction import Compaction, Side, compact


@dataclass(eq=False)
class ColumnLayout:
    """Columns of a prompt from some layer on.

    Attributes:
        compaction: map from the columns that are left to those of the prompt.
        mask: (B, L') bool, columns that are not padding.
        where: (B, L) int64 column in this layout of each column of the prompt, -1 where it is gone.
        tokens: tokens of each video that are left, without features.
        columns: for each video, the (N,) int64 columns of its tokens in the prompt.
    """

    compaction: Compaction
    mask: Tensor
    where: Tensor
    tokens: list[VideoTokens]
    columns: list[Tensor]
    _cache: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def trivial(self) -> bool:
        """Whether all columns are left."""
        return self.compaction.trivial

    def gather(self, values: Tensor) -> Tensor:
        """Select one value per column: (B or 1, L, ...) -> (B, L', ...), any value in new padding."""
        if self.trivial:
            return values
        src = self.compaction.src.to(values.device)
        if len(values) == len(src) == 1:
            return values[:, src[0]]
        return values.expand(len(src), *values.shape[1:])[_rows(src), src]

    def cached(self, name: str, source: Any, make: Callable[[], Any]) -> Any:
        """Return a value that was computed from the same source before; layers share what is gathered once a prompt."""
        held = self._cache.get(name)
        if held is None or held[0] is not source:  # the source is held, so that its identity is not reused
            held = self._cache[name] = source, make()
        return held[1]


def first_layout(mask: Tensor, tokens: list[VideoTokens], columns: list[Tensor]) -> ColumnLayout:
    """Return the layout of the complete prompt, given its (B, L) bool mask."""
    compaction = compact(torch.ones_like(mask), mask)
    return ColumnLayout(compaction, mask, compaction.new_columns(), tokens, columns)


def next_layout(
    keep: Tensor, mask: Tensor, side: Side, tokens: list[VideoTokens], columns: list[Tensor]
) -> ColumnLayout:
    """Return the layout with fewer columns.

    Args:
        keep: (B, L) bool, columns that are left.
        mask: (B, L) bool mask of the prompt.
        side: side of new padding.
        tokens: as in :class:`ColumnLayout`.
        columns: as there.
    """
    compaction = compact(keep, mask, side)
    return ColumnLayout(compaction, compaction.gather(mask, False), compaction.new_columns(), tokens, columns)


def switch_layout(hidden: Tensor, before: ColumnLayout, after: ColumnLayout) -> Tensor:
    """Return hidden states of one layout in a later one: (B, L', D) -> (B, L'', D)."""
    if after is before:
        return hidden
    if before.trivial:
        return after.gather(hidden)
    src = before.where.gather(1, after.compaction.src).clamp(min=0).to(hidden.device)
    return hidden[_rows(src), src]


@dataclass(eq=False)
class Deepstack:
    """Features that the host adds to visual columns after its first layers, for layers with fewer columns.

    Attributes:
        layers: by number of the layer after which they are added, (P, D) features.
        visual: (B, L) bool, placeholders of videos and images.
    """

    layers: dict[int, Tensor]
    visual: Tensor

    def add(self, layer: int, hidden: Tensor, layout: ColumnLayout) -> Tensor:
        """Return the output of a layer in its layout with the features of the columns that are left."""
        if layer not in self.layers:
            return hidden
        number = (self.visual.flatten().cumsum(0) - 1).view_as(self.visual)
        visual = layout.compaction.gather(self.visual, False).to(hidden.device)
        features = self.layers[layer].to(hidden)[layout.compaction.gather(number, 0).to(hidden.device)[visual]]
        hidden = hidden.clone()
        hidden[visual] = hidden[visual] + features
        return hidden


def _rows(src: Tensor) -> Tensor:
    return torch.arange(len(src), device=src.device)[:, None]
