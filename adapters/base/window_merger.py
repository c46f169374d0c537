"""Base class of methods that tile a video with windows and join still positions over the frames of a window.

Dimensions: T frames of P = H*W tokens, N = T*P, k tokens kept, W windows, n points of a set, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import rounded_shares
from framefold.adapters.ops.density_peaks import Clusters, WeightedGroups
from framefold.adapters.ops.links import link_groups
from framefold.adapters.ops.segments import first_frames
from framefold.adapters.ops.similarity import rescale_if_extreme, temporal_similarities
from framefold.adapters.ops.windows import TokenSet, window_sets
from framefold.errors import ConfigError, InputError

from .compressor import Compressor
from .merger import merge_at


class WindowMerger(Compressor):
    """Base class of HoliTom, PruneVid and Tango: static positions are joined over time, the rest is reduced in sets.

    Implement :meth:`windows`, :meth:`reduce` and :meth:`official`. Rule of ``exact`` for k tokens:

    1. Tile the video with windows. In each, some positions are static.
    2. Join each static position over the frames of its window. If that leaves fewer than k tokens, make only the N - k
       links between consecutive frames with the highest cosine similarity, and return the means of the joined tokens.
    3. Otherwise divide k among the sets (the static positions of a window; the other positions of a frame, or of
       several if :meth:`set_points` says so) in proportion to their sizes, rounded as :meth:`head_start` says, and
       reduce each set to its share. Sets of share 0 are dropped.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release, including its number of tokens.

    Raises:
        ConfigError: an unknown variant.
    """

    def __init__(self, budget: Budget = 0.25, *, variant: Literal["exact", "official"] = "exact") -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"{self.name}: variant must be 'exact' or 'official', got {variant!r}")
        self.variant, self.exact_budget = variant, variant == "exact"

    def windows(self, x: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """Find the windows and their static positions.

        Args:
            x: (T, P, D) features.
            ratio: the budget as a ratio.

        Returns:
            (W, 2) int64 first and last frames of the windows, (W, P) bool static positions, and the (T - 1, P) cosine
            similarities with the next frame, or None if they were not needed.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement windows()")

    def reduce(self, tokens: TokenSet, x: Tensor, video: VideoTokens, count: int) -> Clusters:
        """Reduce a set to ``count`` clusters, 1 <= count <= n.

        Args:
            tokens: the set.
            x: (T, P, D) features.
            video: the video, for grid, times and attention.
            count: number of clusters.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement reduce()")

    def set_points(self, video: VideoTokens) -> int:
        """Return how many points consecutive frames of a window may have to be reduced together; 0: one frame each."""
        return 0

    def head_start(self, tokens: TokenSet) -> float:
        """Return how the share of a set is rounded, see :func:`~framefold.adapters.ops.allocation.rounded_shares`."""
        return 0.5

    def official(self, video: VideoTokens, ratio: float) -> WeightedGroups:
        """Return the groups that the released code forms at a retention ratio."""
        raise NotImplementedError(f"{type(self).__name__} must implement official()")

    def events(self, video: VideoTokens) -> Tensor:
        """Return (N,) bool, the first frame of every window but the first."""
        x = rescale_if_extreme(video.features.reshape(video.grid[0], video.per_frame, -1))
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            windows, _, _ = self.windows(x, self.budget if isinstance(self.budget, float) else self.budget / len(video))
        begins = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        begins[windows[:, 0].to(x.device)] = True
        return first_frames(begins, video.per_frame)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            ratio = self.budget_ratio(k, len(video))
            if self.exact_budget:
                groups = self.groups(video, k, ratio)
            else:
                groups = self.official(video, ratio)
                if len(groups.anchors) == 0:
                    raise InputError(f"{self.name}: the released code keeps no token of this video at {self.budget}")
        return merge_at(video, groups.anchors, groups.group, groups.features(video.features))

    def groups(self, video: VideoTokens, k: int, ratio: float) -> WeightedGroups:
        """Return the k groups of a dense video; the ratio may determine thresholds."""
        n, device = len(video), video.features.device
        x = rescale_if_extreme(video.features.reshape(video.grid[0], video.per_frame, -1))
        windows, static, similarity = self.windows(x, ratio)
        linked = torch.zeros((len(x) - 1, x.shape[1]), dtype=torch.bool, device=device)
        for (first, last), joined in zip(windows.tolist(), static, strict=True):
            linked[first:last] = joined
        if int(linked.sum()) >= n - k:
            return _strongest_links(linked, temporal_similarities(x) if similarity is None else similarity, n - k)
        sets = window_sets(windows, static, self.set_points(video))
        sizes, head_start = torch.tensor([[len(one), self.head_start(one)] for one in sets]).T
        groups = WeightedGroups.empty(n, device)
        for one, count in zip(sets, rounded_shares(k, sizes.long(), head_start).tolist(), strict=True):
            if count:
                groups.add(one.rows(video.per_frame), self.reduce(one, x, video, count))
        return groups


def _strongest_links(linked: Tensor, similarity: Tensor, links: int) -> WeightedGroups:
    """Return the means of the tokens that the strongest of the (T - 1, P) links join."""
    positions = linked.shape[1]
    allowed = torch.cat([linked.new_zeros(positions), linked.reshape(-1)])
    parent = torch.where(allowed, torch.arange(len(allowed), device=linked.device) - positions, -1)
    group = link_groups(parent, torch.cat([similarity.new_zeros(positions), similarity.reshape(-1)]), links)
    count = len(group) - links
    rows = torch.arange(len(group), device=group.device)
    first = torch.full((count,), len(group), device=group.device).scatter_reduce(0, group, rows, "amin")
    return WeightedGroups.means(group, first)
