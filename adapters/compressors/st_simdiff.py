"""ST-SimDiff: communities by similarity, turning points by difference (arXiv 2605.22158)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.grid_graph import centrality, communities
from framefold.adapters.ops.selection import rank_in_group
from framefold.adapters.ops.similarity import moderate, similarities
from framefold.adapters.reference.st_simdiff import Strategy, stage_1
from framefold.errors import ConfigError


@dataclass(frozen=True)
class Graph:
    """The graph of one video of N tokens.

    Attributes:
        labels: (N,) int64 community of each token.
        centrality: (N,) mean similarity with its community, itself included.
        temporal: (N,) similarity with the predecessor; 1 in frame 0.
        turning: (N,) bool, the turning points.
    """

    labels: Tensor
    centrality: Tensor
    temporal: Tensor
    turning: Tensor


class STSimDiff(Compressor):
    """Keeps representatives of communities of alike tokens, and the tokens at which something changes. Training-free.

    Neighbours in time (same cell) and in space (right, bottom) with a cosine similarity of at least ``tau_sim`` are
    linked; connected components are the communities, a token without links is a community of one. Members are ranked
    by centrality, the mean similarity with all members. A turning point is a token that is not linked with its
    predecessor in time.

    The paper states no exact budget. Our rule for exactly k tokens, of which s = round(event_share * k) are for turning
    points (1 <= s < k where k >= 2 and the share is neither 0 nor 1):

    1. The s sharpest turning points: those of lowest similarity with their predecessor. Where there are fewer, the rest
       of s goes to the next steps.
    2. The most central member of each community that has no token yet, the largest community first.
    3. The rest is shared in proportion to size (Sainte-Lague): what would be token number i + 1 of a community of n
       waits for (i + 1/2) / n; the smallest comes first, within a community the most central.

    So no community vanishes where the k - s tokens of steps 2 and 3 are one for each; below that the smallest without a
    sharp turning point go, and no community has a representative beside another token. Ties go to the lower index.
    Similarities are fp32; zero vectors are isolated and no turning points.

    ``variant="official"`` is stage 1 of the release, with its thresholds and stop rule: the budget is its cost, and as
    many tokens stay as its rule leaves, often far more. Stage 2 wants attention of the language model:
    :func:`~framefold.adapters.reference.st_simdiff.stage_2`.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        tau_sim: cosine similarity from which neighbours are linked (official: right and bottom ones only above it).
        tau_event: similarity with the predecessor below which a token is a turning point; None: below ``tau_sim``, and
            0.2 for official.
        event_share: part of the budget that turning points may take, in [0, 1]. The default was within a point of the
            best of 0.3 ... 0.9 at 10 and 5 % of the embedded host's tokens, on three sets of videos. Only for exact.
        strategy: order in which official thins communities: 3 by mean similarity, 2 by one that grows with size.
        temporal: link neighbours in time.
        spatial: link neighbours in space; right, bottom: which of them.

    Raises:
        ConfigError: a threshold or share out of range.
    """

    name = "st_simdiff"

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
    ) -> None:
        super().__init__(budget)
        if not 0 < tau_sim <= 1 or not -1 <= (tau_event or 0) <= 1:
            raise ConfigError(f"st_simdiff: tau_sim must be in (0, 1], tau_event in [-1, 1]: {tau_sim}, {tau_event}")
        if not 0 <= event_share <= 1:
            raise ConfigError(f"st_simdiff: event_share must be in [0, 1], got {event_share}")
        if variant not in ("exact", "official") or strategy not in (2, 3):
            raise ConfigError(f"st_simdiff: variant is exact or official, strategy 2 or 3: {variant!r}, {strategy!r}")
        self.variant, self.strategy, self.exact_budget = variant, strategy, variant == "exact"
        self.tau_sim, self.tau_event, self.event_share = tau_sim, tau_event, event_share
        self.temporal, self.spatial, self.right, self.bottom = temporal, spatial, right, bottom

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if self.variant == "official":
            cost = self.budget if isinstance(self.budget, float) else k / len(video)
            return video.keep(self.release(video, cost)[0].nonzero()[:, 0])
        share = round(self.event_share * k)
        if k > 1 and 0 < self.event_share < 1:
            share = min(max(share, 1), k - 1)
        return video.keep(select_rows(self.graph(video), k, share))

    def events(self, video: VideoTokens) -> Tensor:
        """(N,) bool, the turning points."""
        return self.graph(video).turning

    def release(self, video: VideoTokens, cost: float) -> tuple[Tensor, list[float]]:
        """(N,) bool, what stage 1 of the release leaves of a dense video, and the fractions dropped, for stage 2."""
        graph = self.graph(video)
        sizes = torch.bincount(graph.labels)
        total = torch.zeros(len(sizes), dtype=torch.float64, device=sizes.device)
        total.index_add_(0, graph.labels, graph.centrality.double() * sizes[graph.labels])
        mean = (total / sizes**2)[graph.labels]  # two members are equally central, but for rounding
        central = torch.where(sizes[graph.labels] == 2, mean, graph.centrality.double())
        return stage_1(graph.labels, total, central, graph.turning, cost, self.strategy)

    @torch.no_grad()
    def graph(self, video: VideoTokens) -> Graph:
        """Communities, centralities and turning points of a dense video."""
        grid = moderate(video.as_grid())
        sim = similarities(grid)
        official = self.variant == "official"
        alike = torch.gt if official else torch.ge  # in space; in time both take it inclusive
        labels = communities(
            (sim.temporal >= self.tau_sim) & self.temporal,
            alike(sim.right, self.tau_sim) & (self.spatial and self.right),
            alike(sim.bottom, self.tau_sim) & (self.spatial and self.bottom),
        )
        lowest = 0.2 if official else self.tau_sim
        turning = (sim.temporal < (lowest if self.tau_event is None else self.tau_event)) & (sim.inverse > 0)
        if official:  # after a zero vector the release has NaN, which is below nothing
            turning[1:] &= sim.inverse[:-1] > 0
        return Graph(
            labels=labels,
            centrality=centrality(grid, sim.inverse, labels, 2 if official else 3),
            temporal=sim.temporal.reshape(-1),
            turning=turning.reshape(-1),
        )


def select_rows(graph: Graph, k: int, share: int) -> Tensor:
    """(k,) rows, ascending, by the rule of :class:`STSimDiff`; ``share`` is its s."""
    labels, sizes = graph.labels, torch.bincount(graph.labels)
    kept = torch.zeros_like(graph.turning)
    _take(kept, graph.turning, graph.temporal, share)
    central = rank_in_group(graph.centrality, labels) == 0
    _take(kept, central & (_count(kept, labels, sizes) == 0), -sizes[labels], k - int(kept.sum()))
    rank = rank_in_group(torch.where(kept, -torch.inf, graph.centrality), labels)  # those that are kept come last
    number = _count(kept, labels, sizes) + rank
    _take(kept, ~kept, (number + 0.5) / sizes[labels].double(), k - int(kept.sum()))
    return kept.nonzero()[:, 0]


def _take(kept: Tensor, candidates: Tensor, key: Tensor, count: int) -> None:
    """Mark up to ``count`` candidates as kept, lowest key first, ties to the lower row."""
    rows = candidates.nonzero()[:, 0]
    kept[rows[torch.sort(key[rows], stable=True).indices[:count]]] = True


def _count(kept: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """(N,) how many tokens of its community are kept."""
    return torch.bincount(labels[kept], minlength=len(sizes))[labels]
