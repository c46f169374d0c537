"""Uniform frame sampling at an exact token budget."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.partition import even_positions


class Uniform(Compressor):
    """Keeps evenly spaced whole frames; the rest of the budget goes to evenly spaced tokens of one more frame.

    With P tokens per frame and a budget of k, k // P + (k % P > 0) frames are kept, at the middles of equal intervals
    of the video; the last one may be incomplete.
    """

    name = "uniform"
    keeps = "evenly spaced frames; the rest of the budget as evenly spaced tokens of one more frame"
    cost = "one copy of the kept tokens"
    baseline_rank = 2

    def tower_share(self, tokens: VideoTokens) -> float:
        """Return the share of the frames that a vision encoder needs to encode."""
        return -(-len(tokens) // tokens.per_frame) / tokens.grid[0]

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        cells, device = video.per_frame, video.features.device
        whole, rest = divmod(k, cells)
        frames = even_positions(video.grid[0], whole + (rest > 0), device)
        rows = (frames[:whole, None] * cells + torch.arange(cells, device=device)).reshape(-1)
        if rest:
            rows = torch.cat([rows, frames[-1] * cells + even_positions(cells, rest, device)])
        return video.keep(rows)
