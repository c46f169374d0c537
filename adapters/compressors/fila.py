"""FiLA-Video's dynamic-weight scene fusion (arXiv 2504.20384)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.errors import ConfigError, InputError

from .scene_mean import Members, SceneMean, Scenes


class FiLA(SceneMean):
    """Fuses scenes with learned weights: static ones per member and place, plus one read off the content of a token.

    Scenes, budget and bookkeeping are those of ``scene_mean``. A cell n of the i-th member in time weighs
    softmax(static[i, n] + <LayerNorm(x), score>), over all cells that share an output token. Both parts start at
    zero, which is scene_mean to the bit. The static table is resized to other grids (bilinear) and to scenes of
    another number of members (linear). Reviews of the paper tell of a learned weight per member, place and channel,
    started at the mean; its "dynamic" part and its numbers of members are not public, so the content score and r = 3
    are choices of ours.

    Args:
        budget: retention ratio or tokens per video.
        members, r, scene_goal, time_weight, unit_norm: as in ``scene_mean``.
        weight_shape: static weights per place ("n1") or per place and channel ("nd", the paper).
        dynamic: add the content score.
        dim: token width D; None: that of the first video.
        grid: (H, W) of the static table; None: that of the first video.

    Raises:
        ConfigError: a parameter out of range.
        InputError: the video has another width than the weights.
    """

    name = "fila"
    trainable: ClassVar[bool] = True
    counterpart: ClassVar[str | None] = "scene_mean"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        members: Members = "similar",
        r: int = 3,
        scene_goal: int | None = None,
        time_weight: float = 0.0,
        unit_norm: bool = False,
        weight_shape: Literal["n1", "nd"] = "n1",
        dynamic: bool = True,
        dim: int | None = None,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(
            budget, members=members, r=r, scene_goal=scene_goal, time_weight=time_weight, unit_norm=unit_norm
        )
        if weight_shape not in ("n1", "nd"):
            raise ConfigError(f"fila: weight_shape must be 'n1' or 'nd', got {weight_shape!r}")
        if dim is not None and dim < 1 or grid is not None and min(grid) < 1:
            raise ConfigError(f"fila: dim and grid must be positive, got {dim} and {grid}")
        self.weight_shape, self.dynamic, self.dim, self.grid = weight_shape, dynamic, dim, grid
        self.static: nn.Parameter | None = None
        self.score: nn.Parameter | None = None
        if dim is not None and grid is not None:
            self.materialize(dim, grid)

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim, self.grid = self.dim or width, self.grid or grid
        if width != self.dim:
            raise InputError(f"fila has weights for tokens of width {self.dim}, the video has {width}")
        if self.static is None:
            channels = self.dim if self.weight_shape == "nd" else 1
            self.static = nn.Parameter(torch.zeros(self.r + 1, channels, *self.grid, device=device))
            self.score = nn.Parameter(torch.zeros(self.dim, device=device)) if self.dynamic else None

    def logits(self, video: VideoTokens, scenes: Scenes) -> Tensor:
        logits = super().logits(video, scenes)
        logits = logits + self._static_logits(video.grid[1:], scenes).to(logits.dtype)
        if self.score is not None:
            wide = video.features.to(logits.dtype)
            # Not a matmul: under autocast that would be done in bf16.
            content = (nn.functional.layer_norm(wide, wide.shape[1:]) * self.score.to(wide.dtype)).sum(-1)
            logits = logits + content.reshape(-1, video.per_frame, 1)[scenes.frame]
        return logits

    def _static_logits(self, grid: tuple[int, int], scenes: Scenes) -> Tensor:
        """(M, P, 1 | D) rows of the static table at the relative place in time of each member of its scene."""
        assert self.static is not None  # materialize() comes first
        table = self.static.to(torch.promote_types(self.static.dtype, torch.float32))
        if grid != tuple(table.shape[2:]):
            table = nn.functional.interpolate(table, size=grid, mode="bilinear", align_corners=False)
        table = table.flatten(2).transpose(1, 2)
        count = torch.bincount(scenes.scene)
        rank = torch.arange(len(scenes.scene), device=table.device) - (count.cumsum(0) - count)[scenes.scene]
        last = (count[scenes.scene] - 1).clamp(min=1)
        place = torch.where(count[scenes.scene] > 1, rank / last, 0.5) * self.r  # a lone member reads the middle
        place = place.to(table.dtype)
        low = place.floor().long()
        high = place.ceil().long()
        return torch.lerp(table[low], table[high], (place - low)[:, None, None])
