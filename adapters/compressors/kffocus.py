"""KFFocus: frames that differ from the previous one get more tokens (arXiv 2508.08989)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.frame_budget import FrameBudget, power_weights
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import share
from framefold.adapters.ops.similarity import frame_changes
from framefold.errors import ConfigError

ROUNDING = 1e-12  # of squared differences of unit vectors in fp32


class KFFocus(FrameBudget):
    """Gives frames tokens in proportion to their novelty. Training-free.

    The novelty of a frame is 1 - cos(x[t], x[t-1]) of all its features as one vector; that of frame 0 is the largest of
    the others. A frame gets tokens in proportion to novelty^power, plus a share that is equal for all frames; a frame
    takes at most all its tokens, and what it cannot take is divided among the others. Remainders of the division go to
    the largest ones, ties to the earlier frame. The tokens of a frame are means of near-square rectangles, or the
    result of ``fill``. A frame without tokens joins the frame before it, so nothing of the video is dropped.

    The paper has no code and gives no numbers: this is the rule of its abstract. It also trains a module over space and
    time, which is not included.

    Args:
        budget: retention ratio or tokens per video.
        power: exponent of the novelty; 0 gives all frames the same.
        floor: total of the equal shares relative to that of the novelty.
        fill: see :class:`~framefold.adapters.base.frame_budget.FrameBudget`, also for the following ones.
        fill_params: parameters of ``fill``.
        segment_frames: consecutive frames that share a number of tokens.
        empty: "join" or "drop" frames without tokens.

    Raises:
        UnknownCompressorError: ``fill`` is not registered.
        ConfigError: ``fill`` has no exact budget or must be trained, or a parameter is out of range.
    """

    name = "kffocus"
    paper = "KFFocus, arXiv 2508.08989"
    keeps = "means of rectangles, more of frames that differ from the previous one"
    cost = "one cosine similarity per frame, and the cost of fill"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        power: float = 1.0,
        floor: float = 0.0,
        fill: str = "pool",
        fill_params: dict | None = None,
        segment_frames: int = 1,
        empty: Literal["join", "drop"] = "join",
    ) -> None:
        super().__init__(budget, fill=fill, fill_params=fill_params, segment_frames=segment_frames, empty=empty)
        if power < 0 or floor < 0:
            raise ConfigError(f"kffocus: power and floor must be at least 0, got {power=}, {floor=}")
        self.power, self.floor = power, floor

    def relevance(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        changes = frame_changes(video)
        changes[changes < ROUNDING] = 0
        return torch.cat([changes.amax(0, keepdim=True) if len(changes) else changes.new_zeros(1), changes])

    def allocate(self, scores: Tensor, k: int, sizes: Tensor) -> Tensor:
        return share(k, power_weights(scores, self.power, self.floor), sizes)
