"""ST-SimDiff: representatives of similar tokens, and tokens at turning points (arXiv 2605.22158)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.in_llm import Decision
from framefold.adapters.base.prune_after_layer import PruneAfterLayer
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.grid_graph import centrality, communities
from framefold.adapters.ops.selection import rank_in_group
from framefold.adapters.ops.similarity import neighbour_similarities, rescale_if_extreme
from framefold.adapters.reference.st_simdiff import Strategy, drop_ratio, stage_1
from framefold.errors import ConfigError


@dataclass(frozen=True)
class TokenGraph:
    """The space-time graph of a video of N tokens.

    Attributes:
        labels: (N,) int64 community of each token.
        centrality: (N,) mean similarity of each token with its community, including itself.
        temporal: (N,) similarity with the same position in the previous frame; 1 in frame 0.
        turning: (N,) bool, the turning points.
    """

    labels: Tensor
    centrality: Tensor
    temporal: Tensor
    turning: Tensor


class STSimDiff(Compressor):
    """Keeps representatives of communities of similar tokens, and the tokens where something changes. Training-free.

    Neighbours in time (same position) and in space (right, bottom) with a cosine similarity of at least ``tau_sim`` are
    linked. Connected components are the communities; a token without links is a community of its own. Members are
    ranked by centrality, the mean similarity with all members. A turning point is a token that is not linked with the
    same position in the previous frame.

    The paper states no exact budget. The rule for exactly k tokens reserves s = round(event_share * k) of them for
    turning points (1 <= s < k if k >= 2 and the share is neither 0 nor 1):

    1. Keep the s sharpest turning points, those least similar to the previous frame. If there are fewer, the rest of s
       goes to the next steps.
    2. Keep the most central member of each community without a kept token, largest community first.
    3. Distribute the rest in proportion to size (Sainte-Lague): token number i + 1 of a community of n tokens has the
       key (i + 1/2) / n. The smallest key comes first, and within a community the most central token.

    So every community keeps a token if k - s is at least their number. Otherwise, the smallest communities without a
    sharp turning point are dropped, and no community keeps a representative besides another token. Ties go to the lower
    index. Similarities are fp32; zero vectors are isolated and are not turning points.

    ``variant="official"`` is stage 1 of the release, with its thresholds and its stopping rule: the budget is its cost,
    and its rule determines the number of tokens, often far more than the budget.

    ``stage_2`` adds the second stage, inside the language model: after the attention of ``layer``, the tokens that the
    prompt's last token attends to most stay. The budget is then the mean over the layers, so more tokens enter: exact
    keeps ``expansion`` times the budget by the rule above, and as many in the second stage as the budget then allows;
    official keeps what the released stages keep, for the number of layers that the host has.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        tau_sim: cosine similarity from which neighbours are linked (official: above which, for right and bottom), in
            (0, 1]. Official takes any number: above 1, nothing is linked; below 0, only real neighbours are linked,
            where the release also links the ends of a row with the next row.
        tau_event: similarity with the previous frame below which a token is a turning point, in [-1, 1]; None:
            ``tau_sim``, and 0.2 for official. Official takes any number: below -1, there are no turning points; above
            1, all tokens after the first frame are.
        event_share: fraction of the budget for turning points, in [0, 1]; only for exact. The default was within a
            point of the best value in 0.3 ... 0.9 at 10 and 5 % of the embedded host's tokens, on three sets of videos.
        strategy: order in which official thins communities; 3 is by mean similarity, 2 by a sum that grows with size.
        temporal: link neighbours in time.
        spatial: link neighbours in space.
        right: link right neighbours, if ``spatial``.
        bottom: link bottom neighbours, if ``spatial``.
        stage_2: also prune inside the language model.
        expansion: number of tokens that enter, relative to the budget and rounded down, at least 1; only for exact with
            ``stage_2``.
        layer: last layer that sees all of them, from 0, in a language model of 28 layers or more; with fewer
            layers, the same share of them does.

    Raises:
        ConfigError: a parameter is out of range.
    """

    name = "st_simdiff"
    paper = "ST-SimDiff, arXiv 2605.22158"
    keeps = "representatives of similar tokens, and turning points"
    cost = "three cosine similarities per token, and a sort"
    licence = "Apache-2.0"
    deviations = (
        "keeps k tokens in proportion to the communities; in the release, thresholds and a cost determine the "
        "number, and attention in the language model prunes further"
    )
    baseline_rank = 3

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        tau_sim: float = 0.8,
        tau_event: float | None = None,
        event_share: float = 0.7,
        strategy: Strategy = 3,
        temporal: bool = True,
        spatial: bool = True,
        right: bool = True,
        bottom: bool = True,
        stage_2: bool = False,
        expansion: float = 1.25,
        layer: int = 1,
    ) -> None:
        super().__init__(budget)
        if not 1 <= expansion < math.inf or layer < 0:
            raise ConfigError(
                f"st_simdiff: expansion must be at least 1 and layer at least 0, got {expansion} and {layer}"
            )
        thresholds = tau_sim, tau_event or 0.0
        if not all(map(math.isfinite, thresholds)):
            raise ConfigError(f"st_simdiff: tau_sim and tau_event must be finite: {tau_sim}, {tau_event}")
        if variant != "official" and not (0 < tau_sim <= 1 and -1 <= thresholds[1] <= 1):
            raise ConfigError(
                f"st_simdiff: tau_sim must be in (0, 1], tau_event in [-1, 1]: {tau_sim}, {tau_event}; "
                "variant='official' takes any"
            )
        if not 0 <= event_share <= 1:
            raise ConfigError(f"st_simdiff: event_share must be in [0, 1], got {event_share}")
        if variant not in ("exact", "official") or strategy not in (2, 3):
            raise ConfigError(
                f"st_simdiff: variant must be 'exact' or 'official', and strategy 2 or 3: {variant!r}, {strategy!r}"
            )
        self.variant, self.strategy, self.exact_budget = variant, strategy, variant == "exact"
        self.tau_sim, self.tau_event, self.event_share = tau_sim, tau_event, event_share
        self.temporal, self.spatial, self.right, self.bottom = temporal, spatial, right, bottom
        self.stage_2, self.expansion, self.layer = stage_2, expansion, layer
        if stage_2:
            self.query_aware = True  # type: ignore[misc]
            self.in_llm = OfficialSecondStage(layer) if variant == "official" else PruneAfterLayer(layer, expansion)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        if self.variant == "official":
            cost = self.budget_ratio(k, len(video))
            kept, dropped = self.official_stage_1(video, cost)
            return Compressed(video.keep(kept.nonzero()[:, 0]), handover=(cost, dropped))
        share = round(self.event_share * k)
        if k > 1 and 0 < self.event_share < 1:
            share = min(max(share, 1), k - 1)
        return video.keep(select_rows(self.graph(video), k, share))

    def events(self, video: VideoTokens) -> Tensor:
        """Return (N,) bool, the turning points."""
        return self.graph(video).turning

    def official_stage_1(self, video: VideoTokens, cost: float) -> tuple[Tensor, list[float]]:
        """Return (N,) bool, the tokens that stage 1 of the release keeps, and the fractions dropped, for stage 2."""
        graph = self.graph(video)
        sizes = torch.bincount(graph.labels)
        total = torch.zeros(len(sizes), dtype=torch.float64, device=sizes.device)
        total.index_add_(0, graph.labels, graph.centrality.double() * sizes[graph.labels])
        mean = (total / sizes**2)[graph.labels]  # avoids rounding: two members are equally central
        central = torch.where(sizes[graph.labels] == 2, mean, graph.centrality.double())
        return stage_1(graph.labels, total, central, graph.turning, cost, self.strategy)

    @torch.no_grad()
    def graph(self, video: VideoTokens) -> TokenGraph:
        """Compute communities, centralities and turning points of a dense video."""
        grid = rescale_if_extreme(video.as_grid())
        sim = neighbour_similarities(grid)
        official = self.variant == "official"
        is_similar = torch.gt if official else torch.ge  # in space; in time the threshold is inclusive in both variants
        linked = sim.temporal >= self.tau_sim
        if official and self.tau_sim <= 0:  # in time, the similarity of a zero vector is NaN in the release
            linked[1:] &= (sim.inverse[1:] > 0) & (sim.inverse[:-1] > 0)
        labels = communities(
            linked & self.temporal,
            is_similar(sim.right, self.tau_sim) & (self.spatial and self.right),
            is_similar(sim.bottom, self.tau_sim) & (self.spatial and self.bottom),
        )
        default = 0.2 if official else self.tau_sim
        turning = (sim.temporal < (default if self.tau_event is None else self.tau_event)) & (sim.inverse > 0)
        if official:  # after a zero vector, the similarity of the release is NaN, which is not below the threshold
            turning[1:] &= sim.inverse[:-1] > 0
            turning[0] = False  # also if tau_event is above 1, its similarity with itself
        return TokenGraph(
            labels=labels,
            centrality=centrality(grid, sim.inverse, labels, 2 if official else 3),
            temporal=sim.temporal.reshape(-1),
            turning=turning.reshape(-1),
        )


class OfficialSecondStage(PruneAfterLayer):
    """Keeps as many tokens as the release, which counts layer 1 as short, although its attention is not."""

    def __init__(self, layer: int) -> None:
        super().__init__(layer, 1.0)

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        return (entered,)  # not binding: the number follows from what stage 1 dropped

    def begin(self, video: VideoTokens, layers: int, handover: Any) -> float:
        """Return the fraction that is dropped."""
        cost, dropped = handover
        return drop_ratio(dropped, cost, layers)

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: float) -> Decision:
        return super().decide(video, received, layer, max(1, round(len(video) * (1 - memory))), None)


def select_rows(graph: TokenGraph, k: int, share: int) -> Tensor:
    """Return (k,) rows, ascending, by the rule of :class:`STSimDiff`, where ``share`` is s."""
    labels, sizes = graph.labels, torch.bincount(graph.labels)
    kept = torch.zeros_like(graph.turning)
    _take(kept, graph.turning, graph.temporal, share)
    central = rank_in_group(graph.centrality, labels) == 0
    _take(kept, central & (_count(kept, labels, sizes) == 0), -sizes[labels], k - int(kept.sum()))
    rank = rank_in_group(torch.where(kept, -torch.inf, graph.centrality), labels)  # kept tokens come last
    number = _count(kept, labels, sizes) + rank
    _take(kept, ~kept, (number + 0.5) / sizes[labels].double(), k - int(kept.sum()))
    return kept.nonzero()[:, 0]


def _take(kept: Tensor, candidates: Tensor, key: Tensor, count: int) -> None:
    """Mark up to ``count`` candidates as kept, lowest key first, ties to the lower row."""
    rows = candidates.nonzero()[:, 0]
    kept[rows[torch.sort(key[rows], stable=True).indices[:count]]] = True


def _count(kept: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """Return the (N,) number of kept tokens in the community of each token."""
    return torch.bincount(labels[kept], minlength=len(sizes))[labels]
