"""Controls that need no budget: a single frame, and no video at all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from framefold.adapters.core.tokens import Compressed, VideoTokens


class OneFrame:
    """Keeps all tokens of the frame in the middle of the video."""

    query_aware = needs_attention = False

    def tower_share(self, tokens: VideoTokens) -> float:
        """Return the share of a tower's work that this frame needs."""
        return 1 / tokens.grid[0]

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        first = video.grid[0] // 2 * video.per_frame
        return Compressed(video.keep(torch.arange(first, first + video.per_frame, device=video.index.device)))


class Blind:
    """Shows one token of zeros instead of the video, so that the host answers from the question alone.

    A host that adds features in further layers (deepstack) still gets those of one corner of the first frame.
    """

    query_aware = needs_attention = False

    def tower_share(self, tokens: VideoTokens) -> float:
        """Return 0: no frame is encoded."""
        return 0.0

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        kept = video.keep(torch.zeros(1, dtype=torch.long, device=video.index.device))
        nothing = torch.full_like(kept.assign, -1)  # the token stands for nothing of the video
        return Compressed(replace(kept, features=torch.zeros_like(kept.features), assign=nothing))
