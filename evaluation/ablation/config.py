"""An ablation as it was asked for, everything settled that needs no compressor and no host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from framefold.adapters.core.budget import Budget
from framefold.data.shards.index import Index
from framefold.data.synthetic.recipe import Recipe
from framefold.training.frozen_host.locate import FoundHost


@dataclass(frozen=True)
class AblationConfig:
    """An ablation as it was asked for, everything settled that needs no compressor and no host.

    Attributes:
        out, compressors, adapters, params, budgets, seeds, oracle, videos, exclude, batch_size, baseline, drill, cache,
            dtype, allow_other_host: of :func:`ablate`.
        host: that was found. device: to run on.
        recipe: of synthetic videos; data: or the shards. frames: that the host is shown of each at most.
    """

    out: Path
    host: FoundHost
    device: torch.device
    dtype: Literal["auto", "float32", "bfloat16"]
    compressors: list[str] | None
    adapters: list[str]
    params: dict[str, dict[str, Any]]
    budgets: list[Budget]
    seeds: list[int]
    oracle: bool
    recipe: Recipe
    data: Index | None
    videos: int
    frames: int
    exclude: list[str]
    batch_size: int
    baseline: str | None
    drill: int
    cache: Path
    allow_other_host: bool
