"""FiLA-Video: scene fusion with learned weights (arXiv 2504.20384)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.context_network import ContextNetwork, check_context, unit_frames
from framefold.errors import ConfigError

from .scene_mean import Members, SceneMean, Scenes


class FiLA(SceneMean):
    """Fuses scenes with learned weights: static ones per member and position, plus one computed from the token.

    Scenes, budget and assignment are those of ``scene_mean``. Cell n of the i-th member in time has the weight
    softmax(static[i, n] + <LayerNorm(x), score>), over all cells of the same output token. Both terms start at zero,
    which equals ``scene_mean`` bit by bit. The static table is resized to other grids (bilinear) and to scenes with
    another number of members (linear). Reviews of the paper describe a learned weight per member, position and channel,
    initialized to the mean. Its "dynamic" part and its number of members are not public, so the content score and r = 3
    are choices of this implementation. With ``context``, a small network that also reads the surroundings of the cell
    adds to the content score.

    The content scores of all tokens are returned, so that the losses of scores can train them: from the answers alone,
    means of many cells learn slowly which cell to follow.

    Args:
        budget: retention ratio or tokens per video.
        members: see :class:`~framefold.adapters.compressors.scene_mean.SceneMean`.
        r: see :class:`~framefold.adapters.compressors.scene_mean.SceneMean`.
        scene_goal: see :class:`~framefold.adapters.compressors.scene_mean.SceneMean`.
        time_weight: see :class:`~framefold.adapters.compressors.scene_mean.SceneMean`.
        unit_norm: see :class:`~framefold.adapters.compressors.scene_mean.SceneMean`.
        weight_shape: static weights per position ("n1") or per position and channel ("nd", the paper).
        dynamic: add the content score.
        context: widths of the layers of the network that reads the surroundings, see
            :class:`~framefold.adapters.layers.context_network.ContextNetwork`; empty: none.
        dim: token width D; None: that of the first video.
        grid: (H, W) of the static table; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "fila"
    paper = "FiLA-Video, arXiv 2504.20384"
    keeps = "learned weighted means of the frames of K-means scenes"
    cost = "the cost of scene_mean, and one product per token"
    trainable: ClassVar[bool] = True
    counterpart = "scene_mean"

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
        context: tuple[int, ...] = (),
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
        check_context(self.name, context)
        if context and not dynamic:
            raise ConfigError("fila: context adds to the content score of dynamic weights: set dynamic, or drop it")
        self.weight_shape, self.dynamic, self.context, self.dim, self.grid = weight_shape, dynamic, context, dim, grid
        self.returns_scores = dynamic
        self.static: nn.Parameter | None = None
        self.surroundings: ContextNetwork | None = None
        self.score: nn.Parameter | None = None
        if dim is not None and grid is not None:
            self.materialize(dim, grid)

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim, self.grid = matching_width(self.name, self.dim, width), self.grid or grid
        if self.static is None:
            channels = self.dim if self.weight_shape == "nd" else 1
            self.static = nn.Parameter(torch.zeros(self.r + 1, channels, *self.grid, device=device))
            self.score = nn.Parameter(torch.zeros(self.dim, device=device)) if self.dynamic else None
            self.surroundings = ContextNetwork(self.dim, self.context, 1).to(device) if self.context else None

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        content = self.content(video) if self.dynamic else None
        # Losses of scores alone must give the static weights a gradient, too.
        scores = None if content is None else content + self.zero_times_parameters().to(content.dtype)
        return Compressed(self.fuse(video, k, content), scores=scores)

    def content(self, video: VideoTokens) -> Tensor:
        """Return the (N,) content scores of the tokens of a dense video, in fp32 or wider."""
        assert self.score is not None  # created by materialize()
        wide = video.features.to(torch.promote_types(video.features.dtype, torch.float32))
        # Not a matrix product, which autocast would compute in bf16.
        scores = (nn.functional.layer_norm(wide, wide.shape[1:]) * self.score.to(wide.dtype)).sum(-1)
        if self.surroundings is not None:
            scores = scores + self.surroundings(unit_frames(video.features, video.grid))[:, 0].to(scores.dtype)
        return scores

    def logits(self, video: VideoTokens, scenes: Scenes, content: Tensor | None = None) -> Tensor:
        logits = super().logits(video, scenes)
        logits = logits + self._static_logits(video.grid[1:], scenes).to(logits.dtype)
        if content is not None:
            logits = logits + content.to(logits.dtype).reshape(-1, video.per_frame, 1)[scenes.frame]
        return logits

    def _static_logits(self, grid: tuple[int, int], scenes: Scenes) -> Tensor:
        """Return (M, P, 1 | D) rows of the static table at the relative time of each member in its scene."""
        assert self.static is not None  # created by materialize()
        table = self.static.to(torch.promote_types(self.static.dtype, torch.float32))
        if grid != tuple(table.shape[2:]):
            table = nn.functional.interpolate(table, size=grid, mode="bilinear", align_corners=False)
        table = table.flatten(2).transpose(1, 2)
        count = torch.bincount(scenes.scene)
        rank = torch.arange(len(scenes.scene), device=table.device) - (count.cumsum(0) - count)[scenes.scene]
        last = (count[scenes.scene] - 1).clamp(min=1)
        position = torch.where(count[scenes.scene] > 1, rank / last, 0.5) * self.r  # a single member is in the middle
        position = position.to(table.dtype)
        low = position.floor().long()
        high = position.ceil().long()
        return torch.lerp(table[low], table[high], (position - low)[:, None, None])
