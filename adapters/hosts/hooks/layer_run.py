"""One prompt on its way through the decoder layers: its layouts, the attention that was read or is added, decisions.

Dimensions: B rows, L columns of the prompt, L' columns of a layer, D width, h heads, d head width, N tokens of a video,
S tokens outside of the context, T text columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.base.added_attention import AddedAttention
from framefold.adapters.base.in_llm import Decision, apply_decision
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.prompt.compaction import Side
from framefold.adapters.hosts.prompt.places import InLLMPlan, VideoPlace
from framefold.errors import ContractError

from .layer_cache import AddedKeys, Shared
from .layer_layout import ColumnLayout, Deepstack, next_layout


@dataclass(eq=False)
class AddedTokens:
    """Tokens outside of the context, to which text columns of the prompt attend.

    Attributes:
        stage: what computes the attention.
        tokens: (B, S, D), padded with zeros.
        mask: (B, S) bool, False for padding.
        columns: (B, T) int64 text columns of each row, and further ones up to T.
        is_text: (B, T) bool, whether they are text.
        stored: keys and values by layer, which are also on the cache.
    """

    stage: AddedAttention
    tokens: Tensor
    mask: Tensor
    columns: Tensor
    is_text: Tensor
    stored: dict[int, AddedKeys] = field(default_factory=dict)

    def keys(self, layer: int) -> AddedKeys:
        """Return keys and values for a layer. Unless they are stored, they are computed anew for each gradient."""
        if layer in self.stored:
            return self.stored[layer]
        return AddedKeys(Shared(self.stage), *self.stage.keys_and_values(layer, self.tokens), self.mask)

    def add(self, layer: int, query: Tensor, out: Tensor) -> Tensor:
        """Return the output of the self-attention of a layer, (B, L, h, d), with what is added to text.

        Args:
            layer: number of the layer.
            query: (B, h, L, d) after rotation.
            out: (B, L, h, d).
        """
        columns, is_text = self.columns.to(out.device), self.is_text.to(out.device)
        if not columns.shape[1]:
            return out
        index = columns[..., None, None].expand(-1, -1, *out.shape[2:])
        before = out.gather(1, index)
        after = self.keys(layer).add(layer, query.gather(2, index.transpose(1, 2)), before)
        return out.scatter(1, index, torch.where(is_text[..., None, None], after, before))


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
        added: for each stage that adds to the attention of text, what it adds.
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
    added: tuple[AddedTokens, ...] = ()
    received: dict[int, Tensor] = field(default_factory=dict)
    decisions: dict[tuple[int, int], Decision] = field(default_factory=dict)

    def layout(self, layer: int) -> ColumnLayout:
        """Return the layout that a layer sees."""
        return self.layouts[self.start(layer)]

    def start(self, layer: int) -> int:
        """Return the first layer with the layout that a layer sees."""
        return max(start for start in self.layouts if start <= layer)

    @property
    def adds(self) -> tuple[int, ...]:
        """Layers in which the attention of text is added to."""
        return self.added[0].stage.adds(self.layers) if self.added else ()

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

    def short_arguments(self, now: ColumnLayout, hidden: Tensor, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a layer that have one value per column, in its layout."""
        rotations = kwargs["position_embeddings"]
        new: dict[str, Any] = {
            "position_embeddings": now.cached("rotations", rotations[0], lambda: tuple(map(now.gather, rotations))),
            "attention_mask": now.cached("mask", self.mask, lambda: self.make_mask(hidden, now.mask)),
        }
        if kwargs.get("position_ids") is not None:  # without gaps, which flash attention reads as packed sequences
            columns = torch.arange(hidden.shape[1], device=hidden.device)
            new["position_ids"] = columns.expand(len(hidden), -1)
        return new

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
