"""Seeded random selection, the baseline that every selector should beat."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.selector import Selector
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.errors import ConfigError


class Random(Selector):
    """Keeps random tokens; the same seed keeps the same positions in all videos of the same shape.

    Args:
        budget: retention ratio or tokens per video.
        seed: seed of the generator, which is created on every call; no global random state is used.
    """

    name = "random"
    keeps = "seeded random tokens"
    cost = "one copy of the kept tokens"
    baseline_rank = 1

    def __init__(self, budget: Budget = 0.25, *, seed: int = 0) -> None:
        super().__init__(budget)
        if not 0 <= seed < 2**63:
            raise ConfigError(f"random: seed must be in [0, 2^63), got {seed}")
        self.seed = seed

    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)  # on the CPU, to be equal on every device
        return torch.rand(len(video), generator=generator, dtype=torch.float64).to(video.features.device)
