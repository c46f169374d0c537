"""ST-SimDiff: communities by similarity, turning points by difference (arXiv 2605.22158)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Compressor
from .errors import ConfigError
from .graph import centrality, communities, rank_in_group, similarities
from .ops import Budget
from .tokens import VideoTokens


class STSimDiff(Compressor):
    """Keeps representatives of communities of alike tokens, and the tokens at which something changes. Training-free.

    Neighbours in time (same cell) and in space (right, bottom) with cosine similarity of at least ``tau_sim`` are
    linked; connected components are the communities, and a token without links is a community of one. The most
    central member of a community is the one of highest mean similarity with all members. A turning point is a token
    that is not linked with its predecessor.

    The paper has no exact budget. Rule for exactly k tokens:
      1. Turning points get round(event_share * k) tokens, at least 1 and at most k - 1 for k >= 2: the lowest
         temporal similarities first. Where there are fewer turning points, the rest goes to step 2.
      2. Communities without a token yet get their most central member, the largest community first.
      3. The rest is shared in proportion to size: the member that would be the (i+1)-th token of a community of n
         waits for (i + 1/2) / n, smallest first (Sainte-Lague's rule), within a community the most central first.
    So no community vanishes before the others have given up all but one of their tokens of steps 2 and 3, and below
    that the smallest vanish first. All ties go to the lower index. Similarities are fp32; zero vectors are isolated
    and no turning points.

    Args:
        budget: retention ratio or tokens per video.
        tau_sim: cosine similarity from which neighbours are linked.
        tau_event: similarity with the predecessor below which a token is a turning point; None: below ``tau_sim``.
        event_share: part of the budget that turning points may take, in [0, 1].
        temporal: link neighbours in time.
        spatial: link neighbours in space.

    Raises:
        ConfigError: a threshold or share out of range.
    """

    name = "st_simdiff"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        tau_sim: float = 0.8,
        tau_event: float | None = None,
        event_share: float = 0.5,
        temporal: bool = True,
        spatial: bool = True,
    ) -> None:
        super().__init__(budget)
        if not 0 < tau_sim <= 1 or not -1 <= (tau_event or 0) <= 1:
            raise ConfigError(f"st_simdiff: tau_sim must be in (0, 1], tau_event in [-1, 1]: {tau_sim}, {tau_event}")
        if not 0 <= event_share <= 1:
            raise ConfigError(f"st_simdiff: event_share must be in [0, 1], got {event_share}")
        self.tau_sim, self.tau_event, self.event_share = tau_sim, tau_event, event_share
        self.temporal, self.spatial = temporal, spatial

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        graph = self.graph(video)
        kept = self._turning_points(graph, k)
        order = _by_quota(graph, kept)
        kept[order[: k - int(kept.sum())]] = True
        return video.keep(kept.nonzero()[:, 0])

    @torch.no_grad()
    def graph(self, video: VideoTokens) -> Graph:
        """Communities, centralities and turning points of a dense video."""
        grid = video.as_grid()
        sim = similarities(grid)
        links = (
            (sim.temporal.reshape(sim.right.shape), self.temporal),
            (sim.right, self.spatial),
            (sim.bottom, self.spatial),
        )
        labels = communities(*((similarity >= self.tau_sim) & wanted for similarity, wanted in links))
        threshold = self.tau_sim if self.tau_event is None else self.tau_event
        return Graph(
            labels,
            centrality(grid.flatten(1, 2), sim.inverse, labels),
            sim.temporal.reshape(-1),
            ((sim.temporal < threshold) & (sim.inverse > 0)).reshape(-1),
        )

    def _turning_points(self, graph: Graph, k: int) -> Tensor:
        """(N,) bool: the turning points that step 1 keeps."""
        share = round(self.event_share * k)
        if k > 1 and 0 < self.event_share < 1:
            share = min(max(share, 1), k - 1)
        share = min(share, int(graph.events.sum()))
        key = torch.where(graph.events, graph.temporal, torch.inf)
        kept = torch.zeros_like(graph.events)
        kept[torch.sort(key, stable=True).indices[:share]] = True
        return kept


@dataclass(frozen=True)
class Graph:
    """The graph of one video of N tokens.

    Attributes:
        labels: (N,) int64 community of each token.
        centrality: (N,) mean similarity with its community.
        temporal: (N,) similarity with the predecessor; 1 in frame 0.
        events: (N,) bool, turning points.
    """

    labels: Tensor
    centrality: Tensor
    temporal: Tensor
    events: Tensor


def _by_quota(graph: Graph, kept: Tensor) -> Tensor:
    """(N - kept,) rows that are not kept yet, in the order of steps 2 and 3."""
    sizes = torch.bincount(graph.labels)
    taken = torch.bincount(graph.labels[kept], minlength=len(sizes))
    rows = (~kept).nonzero()[:, 0]
    labels = graph.labels[rows]
    rank = taken[labels] + rank_in_group(graph.centrality[rows], labels)
    size = sizes[labels].double()
    key = torch.where(rank == 0, -size, (rank + 0.5) / size)
    return rows[torch.sort(key, stable=True).indices]
