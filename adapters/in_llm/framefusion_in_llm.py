"""FrameFusion as published: merging layer after layer inside the language model, then pruning (arXiv 2501.01986)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from framefold.adapters.base.in_llm import Decision, InLLM
from framefold.adapters.base.in_llm_only import InLLMOnly
from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.links import tree_groups
from framefold.adapters.ops.selection import exact_topk
from framefold.adapters.reference.framefusion import FusionState, merge_parents, prune_columns
from framefold.adapters.reference.st_simdiff import drop_ratio
from framefold.errors import ConfigError


class FrameFusionInLLM(InLLMOnly):
    """Merges similar tokens at the same place over time, layer after layer, and prunes the rest by attention once.

    All tokens enter. After the attention of each layer, every token whose state has a cosine similarity of at least
    ``tau`` with the previous one at its place joins the run of that one; a run becomes the mean of its members,
    at its first one. Once a layer merges less than a fraction ``least`` of the tokens, the next one keeps the tokens
    that the prompt's last token attends to most, as many as the budget allows in the layers behind. If a layer has more
    similar tokens than needed, only the most similar ones join, and nothing is pruned.

    The budget is the mean over the layers. ``exact`` counts the tokens that each layer has seen, and prunes earlier if
    the budget would not be met otherwise; budgets below about 1 / n are not possible in n layers. ``official`` counts
    as the release, with the budget as its cost: tokens that a layer drops already count as gone in that layer.

    Args:
        budget: retention ratio or tokens per video, as the mean over the layers.
        variant: "exact" for the rule above, "official" for the release.
        tau: cosine similarity from which tokens are merged; the release sets it for each host.
        least: fraction of merged tokens below which merging ends.

    Raises:
        ConfigError: an unknown variant, or a number out of range.
    """

    name = "framefusion_in_llm"
    paper = "FrameFusion, arXiv 2501.01986"
    keeps = "means of similar tokens over time, then those that the prompt's last token attends to"
    cost = "one cosine similarity per token and one row of attention in each of the first layers"
    licence = "Apache-2.0"
    deviations = (
        "the number of tokens that are pruned follows from those that each layer has seen, and pruning does not wait"
        " for a layer that merges little if the budget would not be met then"
    )
    query_aware = True

    def __init__(
        self,
        budget: Budget = 0.3,
        *,
        variant: Literal["exact", "official"] = "exact",
        tau: float = 0.6,
        least: float = 0.1,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"framefusion_in_llm: variant must be 'exact' or 'official', got {variant!r}")
        if not -1 <= tau <= 1 or not 0 <= least <= 1:
            raise ConfigError(f"framefusion_in_llm: tau must be in [-1, 1] and least in [0, 1], got {tau} and {least}")
        self.variant, self.tau, self.least = variant, tau, least
        self.exact_budget = variant == "exact"
        self.in_llm = FusionLayers(tau, least) if self.exact_budget else OfficialFusionLayers(tau, least)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        mean = budget_tokens(self.budget, len(video))
        if self.exact_budget:
            return Compressed(video, handover=mean)
        return Compressed(video, handover=self.budget if isinstance(self.budget, float) else mean / len(video))


@dataclass
class FusionProgress:
    """What the layers so far have done with a video.

    Attributes:
        layers: number of layers.
        left: tokens times layers that are left of the budget; of ``official``, the cost.
        state: what is finished.
    """

    layers: int
    left: float
    state: FusionState = field(default_factory=FusionState)


class FusionLayers(InLLM):
    """Merges in each layer, then prunes in one."""

    reads = True
    binding = False

    def __init__(self, tau: float, least: float) -> None:
        super().__init__()
        self.tau, self.least = tau, least

    def acts(self, layers: int) -> tuple[int, ...]:
        return tuple(range(layers - 1))

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        return (super().counts(entered, k, layers)[0],) * (layers - 1)  # checks that the budget is possible

    def begin(self, video: VideoTokens, layers: int, handover: Any) -> FusionProgress:
        return FusionProgress(layers, layers * handover)

    def decide(
        self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: FusionProgress
    ) -> Decision:
        assert received is not None
        everything, behind = torch.arange(len(video), device=received.device), memory.layers - layer - 1
        memory.left -= len(video)
        if memory.state.pruned:
            return Decision(everything)
        most = min(len(video), int(memory.left) // behind)
        if memory.state.merged:
            memory.state = FusionState(merged=True, pruned=True)
            return Decision(exact_topk(received, most))
        need = (len(video) - most + 0.5) / len(video)  # int(need * N) is the number of tokens to remove
        parent, fraction, enough = merge_parents(video.features, places_of(video), need, self.tau)
        rows = (parent < 0).nonzero()[:, 0]
        if not enough and memory.left < len(rows) + behind - 1:  # the next layer cannot see as many
            memory.state = FusionState(merged=True, pruned=True)
            return Decision(exact_topk(received, most))
        memory.state = FusionState(merged=enough or fraction < self.least, pruned=enough)
        return merge_decision(parent)


class OfficialFusionLayers(FusionLayers):
    """Merges and prunes as many tokens as the release."""

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        return (entered,) * (layers - 1)

    def begin(self, video: VideoTokens, layers: int, handover: Any) -> FusionProgress:
        return FusionProgress(layers, handover)

    def decide(
        self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: FusionProgress
    ) -> Decision:
        assert received is not None
        state = memory.state
        if state.pruned:
            return Decision(torch.arange(len(video), device=received.device))
        need = drop_ratio(state.dropped, memory.left, memory.layers)
        if state.merged:
            memory.state = FusionState(state.dropped, merged=True, pruned=True)
            return Decision(prune_columns(received, places_of(video), need))
        parent, fraction, enough = merge_parents(video.features, places_of(video), need, self.tau)
        dropped = state.dropped if enough else (*state.dropped, fraction)
        memory.state = FusionState(dropped, merged=enough or fraction < self.least, pruned=enough)
        return merge_decision(parent)


def places_of(video: VideoTokens) -> Tensor:
    """Return the (N,) place of each token in its frame."""
    return video.index % video.per_frame


def merge_decision(parent: Tensor) -> Decision:
    """Return the decision to join each token to its parent, -1 if it stays."""
    rows = (parent < 0).nonzero()[:, 0]
    return Decision(rows, tree_groups(parent) if len(rows) < len(parent) else None)
