"""STC-Pruner: keep the tokens of each frame unlike their frame and unlike the past (arXiv 2512.00891)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import rank_in_frame, select_by_stage
from framefold.adapters.ops.similarity import (
    Frames,
    gaussian_similarity,
    normalize,
    rescale_if_extreme,
    steady_channels,
)
from framefold.adapters.reference.stc import prune_chunks
from framefold.errors import ConfigError


class STC(Compressor):
    """Keeps the tokens least similar to the means of their frame and of all frames so far. Training-free, causal.

    1. In each frame, select the half of the channels with the lowest variance, and normalize each token in them.
    2. The redundancy of a token is its similarity (Gaussian kernels of five widths) with the mean of these tokens plus
       its similarity with the memory: the normalized mean over this frame and all earlier ones, in the same channels.
    3. Each frame keeps its k // T least redundant tokens. The remaining k mod T tokens are the least redundant ones
       among the next tokens of all frames, at most one of each. So if k < T, k frames keep one token.

    The redundancies of a frame do not depend on later frames. Ties go to the lower index, channels of equal variance to
    the lower channel. Similarities are fp32.

    ``variant="official"`` is the pruner of the release, see :func:`~framefold.adapters.reference.stc.prune_chunks`:
    each frame keeps max(1, k // T) tokens, whatever the total.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        chunk: number of frames that official processes together, 1 in the release.

    Raises:
        ConfigError: an unknown variant, or a ``chunk`` below 1, or other than 1 without ``official``.
    """

    name = "stc"
    paper = "STC, arXiv 2512.00891"
    keeps = "tokens unlike their frame and the frames so far, equally many of each frame"
    cost = "two similarities per token, and a sort"
    licence = "none"
    deviations = (
        "the memory is the mean of all frames so far in the channels of the present one, where the release averages "
        "other channels of each frame; the remainder of the budget goes to the frames with the least redundant "
        "tokens"
    )

    def __init__(
        self, budget: Budget = 0.25, *, variant: Literal["exact", "official"] = "exact", chunk: int = 1
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"stc: variant must be 'exact' or 'official', got {variant!r}")
        if chunk < 1 or chunk > 1 and variant == "exact":
            raise ConfigError(f"stc: chunk must be at least 1, and 1 for variant='exact', got {chunk}")
        self.variant, self.chunk = variant, chunk
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            rows = self.exact_rows(video, k) if self.exact_budget else self.official_rows(video, k)
        return video.keep(rows)

    def exact_rows(self, video: VideoTokens, k: int) -> Tensor:
        """Return the (k,) rows that are kept, ascending."""
        redundancy = redundancies(Frames(video, rescale=True))
        rank, share = rank_in_frame(redundancy), k // video.grid[0]
        stage = torch.where(rank < share, 0, torch.where(rank == share, 1, 2))
        return select_by_stage(stage, redundancy, k)

    def official_rows(self, video: VideoTokens, k: int) -> Tensor:
        """Return the rows, ascending, that the release keeps."""
        per_frame = max(1, k // video.grid[0])
        chunks = rescale_if_extreme(video.as_grid().flatten(1, 2)).float().split(self.chunk)
        starts = range(0, len(video), self.chunk * video.per_frame)
        return torch.cat([start + rows for start, rows in zip(starts, prune_chunks(chunks, per_frame), strict=True)])


def redundancies(frames: Frames) -> Tensor:
    """Return the (T, P) fp32 redundancies of step 2 of :class:`STC`."""
    total = torch.zeros(frames.video.shape[-1], dtype=torch.float64, device=frames.video.device)
    out = []
    for frame in frames:
        mean = frame.mean(0)
        channels = steady_channels((frame - mean).square_().mean(0))
        unit = normalize(frame.index_select(1, channels), 1e-12)
        total += mean
        memory = normalize(total[channels][None], 1e-12)[0].float()
        out.append(gaussian_similarity(unit, unit.mean(0)) + gaussian_similarity(unit, memory))
    return torch.stack(out)
