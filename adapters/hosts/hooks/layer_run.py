"""One prompt on its way through the decoder layers: its layouts, the attention that was read, and the decisions.

Dimensions: B rows, L columns of the prompt, L' columns of a layer, D width, h heads, d head width, N tokens of a video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.base.in_llm import Decision, apply_decision
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.prompt.compaction import Side
from framefold.adapters.hosts.prompt.places import InLLMPlan, VideoPlace
from framefold.errors import ContractError

from .layer_layout import ColumnLayout, Deepstack, next_layout


@dataclass(eq=False)
class LayerRun:
    """One prompt in its prefill. It travels as a keyword argument, which recomputed layers get again.

    Attributes:
        places: the videos, by row of this batch.
        acts: layers in which the stage acts.
        site: site of the stage.
        reads: whether attention is read.
        mask: (B, L) bool, columns of the prompt that are not padding.
        asks: (B,) int64 column whose attention is read.
        side: side of new padding.
        layers: number of layers.
        make_mask: computes the host's own attention mask from hidden states and a (B, L') mask.
        layouts: by the first layer for which they hold; that of the complete prompt is 0.
        deepstack: features that the host would add where there are fewer columns; None if it adds none.
        memory: state of the stage of each video.
    """

    places: list[VideoPlace]
    acts: tuple[int, ...]
    site: str
    reads: bool
    mask: Tensor
    asks: Tensor
    side: Side
    layers: int
    make_mask: Callable[[Tensor, Tensor], Any]
    layouts: dict[int, ColumnLayout]
    deepstack: Deepstack | None
    memory: list[Any]
    received: dict[int, Tensor] = field(default_factory=dict)
    decisions: dict[tuple[int, int], Decision] = field(default_factory=dict)

    def layout(self, layer: int) -> ColumnLayout:
        """Return the layout that a layer sees."""
        return self.layouts[max(start for start in self.layouts if start <= layer)]

    @property
    def last(self) -> ColumnLayout:
        """ColumnLayout of the last layer."""
        return self.layouts[max(self.layouts)]

    def is_read(self, layer: int) -> bool:
        """Whether the attention function of a layer needs this object."""
        return self.site == "after_attention" and layer in self.acts

    def add_deepstack(self, layer: int, hidden: Tensor) -> Tensor:
        """Return the output of a layer with the features that the host would add after it."""
        return hidden if self.deepstack is None else self.deepstack.add(layer, hidden, self.layout(max(layer, 0)))

    @torch.no_grad()
    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Record the attention of the asking column of each row, in fp32, averaged over the heads.

        Args:
            layer: number of the layer.
            query: (B, h, L', d) after rotation.
            key: (B, key-value heads, L', d) after rotation.
            scaling: factor of the logits.
        """
        layout, (batch, heads, _, width) = self.layout(layer), query.shape
        place = layout.where.gather(1, self.asks[:, None])[:, 0].to(query.device)
        asking = query[torch.arange(batch, device=query.device), :, place].float()
        asking = asking.view(batch, key.shape[1], -1, width)  # by key-value head
        logits = (asking @ key.float().transpose(-1, -2) * scaling).view(batch, heads, -1)
        column = torch.arange(key.shape[-2], device=key.device)
        seen = (column <= place[:, None]) & layout.mask.to(key.device)
        self.received[layer] = logits.masked_fill(~seen[:, None], -torch.inf).softmax(-1).mean(1)

    def decide(self, layer: int, hidden: Tensor) -> Tensor | None:
        """Ask the stage about each video, and keep the layout that follows from its decisions.

        Args:
            layer: number of the layer.
            hidden: (B, L', D) states after its attention, or those that enter it, in the layout of the layer before.

        Returns:
            The states with merged tokens; None if nothing was merged.
        """
        start = layer + 1 if self.site == "after_attention" else layer
        before = self.layout(start - 1)
        left, columns, merged = [], [], []
        keep = before.where >= 0
        for number, (place, tokens, own) in enumerate(zip(self.places, before.tokens, before.columns, strict=True)):
            here = before.where[place.row, own].to(hidden.device)
            decision, reduced = self._reduce(layer, number, hidden[place.row, here], here, tokens)
            rows = decision.rows.to(own.device)
            keep[place.row, own] = False
            keep[place.row, own[rows]] = True
            if decision.group is not None:
                merged.append((place.row, here[decision.rows], reduced.features))
            left.append(_without_features(reduced))
            place.left[start] = left[-1]
            columns.append(own[rows])
        # The layer may run again for its gradients.
        if start not in self.layouts and not torch.equal(keep, before.where >= 0):
            self.layouts[start] = next_layout(keep, self.mask, self.side, left, columns)
        return _write(hidden, merged) if merged else None

    def _reduce(
        self, layer: int, number: int, states: Tensor, here: Tensor, tokens: VideoTokens
    ) -> tuple[Decision, VideoTokens]:
        """Return the decision about a video, which is made only once, and its tokens after it."""
        place = self.places[number]
        plan = _plan(place)
        video = VideoTokens(states, tokens.grid, tokens.index, tokens.size, tokens.assign, tokens.times)
        video = video.to(states.device)
        if (layer, number) not in self.decisions:
            k = plan.counts[self.acts.index(layer)]
            received = self.received[layer][place.row, here] if self.reads else None
            with torch.no_grad():
                decision = plan.in_llm.decide(video, received, layer, k, self.memory[number])
            if plan.exact and len(decision.rows) != k:
                name = type(plan.in_llm).__name__
                raise ContractError(f"{name} keeps {len(decision.rows)} tokens after layer {layer}, where {k} are left")
            self.decisions[layer, number] = decision
        decision = self.decisions[layer, number]
        return decision, apply_decision(video, decision)


def _plan(place: VideoPlace) -> InLLMPlan:
    assert place.plan is not None
    return place.plan


def _without_features(video: VideoTokens) -> VideoTokens:
    features = video.features.new_empty(0, video.width)
    return VideoTokens(features, video.grid, video.index, video.size, video.assign, video.times)


def _write(hidden: Tensor, merged: list[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Return the states with other values in some columns of some rows."""
    for row, columns, values in merged:
        hidden = hidden.index_put((torch.tensor(row, device=hidden.device), columns), values.to(hidden.dtype))
    return hidden
