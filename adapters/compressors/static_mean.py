"""Static frames and means of the tokens that follow; TDC without its trained parts (arXiv 2504.10443)."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.merger import Merger
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import proportional_parts
from framefold.adapters.ops.partition import split_runs
from framefold.adapters.ops.similarity import frame_changes
from framefold.errors import ConfigError


class StaticMean(Merger):
    """Keeps the first frame of each segment as it is, and averages runs of the tokens that follow. Training-free.

    Segments end where neighbouring frames, each as one vector, have the lowest cosine similarity. TDC keeps the first
    frame of each chunk of at most eight frames of a segment, and reads the others with a query transformer; here, their
    tokens are averaged. Rule for exactly k tokens:

    1. There are n = floor(``static_share`` k / P) segments, and their first frames are kept.
    2. The other tokens of each segment, in raster order frame by frame, are split into runs of near-equal length that
       give the rest of the budget, each segment in proportion to its other tokens. If that is less than one token, they
       are dropped: the first frame stands for the segment.
    3. If n is 0, all tokens of the video are split into k runs.

    Segments do not affect each other once their ends are given. Ties go to the earlier frame.

    Args:
        budget: retention ratio or tokens per video.
        static_share: part of the budget that is spent on first frames; TDC spends 145 of 264 tokens of a chunk.

    Raises:
        ConfigError: ``static_share`` is not in [0, 1).
    """

    name = "static_mean"
    paper = "TDC, arXiv 2504.10443"
    keeps = "first frames of segments, and means of runs of the tokens that follow"
    cost = "one cosine similarity per frame, and one mean"
    licence = "none"
    deviations = (
        "derives the number of segments from the budget; means of runs instead of a query transformer that reads the "
        "question; finds the segments in the features of the host instead of those of DINO; no separators"
    )

    def __init__(self, budget: Budget = 0.25, *, static_share: float = 0.55) -> None:
        super().__init__(budget)
        if not 0 <= static_share < 1:
            raise ConfigError(f"static_mean: static_share must be in [0, 1), got {static_share}")
        self.static_share = static_share

    @torch.no_grad()
    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        frames, per_frame, device = video.grid[0], video.per_frame, video.features.device
        segment, static = self.segments(video, k)
        starts = static.nonzero()[:, 0]
        count = len(starts)
        if count == 0:
            return split_runs(len(video), k, device)
        places = torch.arange(per_frame, device=device)
        groups = torch.full((frames, per_frame), -1, device=device)
        groups[starts] = torch.arange(count, device=device)[:, None] * per_frame + places

        sizes = torch.bincount(segment[~static], minlength=count) * per_frame
        tokens, first = proportional_parts(sizes, k - count * per_frame), sizes.cumsum(0) - sizes
        of = segment[~static][:, None]  # (other frames, 1) their segments
        position = torch.arange(len(of), device=device)[:, None] * per_frame + places - first[of]
        run = position * tokens[of] // sizes[of] + (tokens.cumsum(0) - tokens)[of] + count * per_frame
        groups[~static] = torch.where(tokens[of] > 0, run, -1)
        return groups.reshape(-1)

    def segments(self, video: VideoTokens, k: int) -> tuple[Tensor, Tensor]:
        """Return the (T,) int64 segment of each frame, and (T,) bool, the first frames that are kept as they are.

        Without room for such a frame, the video is one segment.
        """
        frames, device = video.grid[0], video.features.device
        segment = torch.zeros(frames, dtype=torch.long, device=device)
        static = torch.zeros(frames, dtype=torch.bool, device=device)
        count = int(self.static_share * k) // video.per_frame
        if count > 0:
            starts = self.starts(video, count)
            segment[starts[1:]] = 1
            static[starts] = True
        return segment.cumsum(0), static

    def starts(self, video: VideoTokens, count: int) -> Tensor:
        """Return the (n,) int64 first frames of the segments, ascending; 1 <= n <= T."""
        ends = torch.sort(frame_changes(video), descending=True, stable=True).indices[: count - 1]
        return torch.cat([ends.new_zeros(1), ends.sort().values + 1])
