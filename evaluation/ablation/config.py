"""Settings of an ablation, checked as far as possible without a compressor and a host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from framefold.adapters.core.budget import Budget
from framefold.data.shards.index import Index
from framefold.data.synthetic.recipe import Recipe
from framefold.training.frozen_host.locate import HostFolder

MOST_DAMAGED = 0.05  # fraction of damaged videos that is tolerated by default


@dataclass(frozen=True)
class AblationConfig:
    """Settings of an ablation.

    Attributes not listed here are the arguments of the same name of
    :func:`~framefold.evaluation.ablation.ablate.ablate`.

    Attributes:
        host: the host, located on disk.
        device: device to run on.
        recipe: recipe of the synthetic videos, used if ``data`` is None.
        data: index of the shards, or None.
        frames: largest number of frames that the host gets of a video in shards.
        kept_videos: number of videos, from the first, for which the kept tokens are recorded.
    """

    out: Path
    host: HostFolder
    device: torch.device
    dtype: Literal["auto", "float32", "bfloat16"]
    compressors: list[str] | None
    adapters: list[str]
    params: dict[str, dict[str, Any]]
    budgets: list[Budget]
    equal: Literal["tokens", "flops"]
    seeds: list[int]
    oracle: bool
    rows: list[str]
    recipe: Recipe
    data: Index | None
    videos: int
    frames: int
    exclude: list[str]
    batch_size: int
    baseline: str | None
    kept_videos: int
    cache: Path
    allow_other_host: bool
    max_damaged: float = MOST_DAMAGED
