"""Prototypes of a video that read it at several time scales; after ProtoPRVR (arXiv 2504.13035)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.sizes import MAX_SIZE
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.layers.time_encoding import time_features
from framefold.adapters.ops.partition import split_runs
from framefold.adapters.ops.segments import segment_mean
from framefold.errors import ConfigError

from .resampler import EPS, Memory, Resampler

WINDOWS = (2, 4, 8)  # frames that are averaged, place by place


class Prototypes(Resampler):
    """Lets the tokens of ``pool`` attend repeatedly to the video and to its averages over short windows.

    The tokens pass several times through one block, which attends to all tokens and, place by place, to their averages
    over windows of 2, 4 and 8 frames. Before training, this equals ``pool`` bit by bit.

    Two losses are returned during training. "ortho" is the mean squared cosine between two different tokens, so that
    they describe different things. "rebuild", if it has a weight, is that of
    :class:`~framefold.adapters.compressors.resampler.Resampler`, the paper's reconstruction of the video. The answers
    of the host stand for its reconstruction of the text. Sizes and weights are not those of the paper, which are not
    published.

    Args:
        budget: retention ratio or tokens per video.
        spatial: see :class:`~framefold.adapters.compressors.pool.Pool`.
        passes: how often the tokens pass through the block.
        inner: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        heads: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        ortho: weight of the loss "ortho"; 0: it is not returned.
        rebuild: weight of the loss "rebuild"; 0 creates no parameters for it.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "prototypes"
    paper = "after ProtoPRVR, arXiv 2504.13035"
    keeps = "means over time and space, changed by repeated attention to the video at several time scales"
    cost = "passes * attention of k queries to less than 2 N tokens and averages"
    deviations = (
        "written after the paper, whose sizes and weights are not published; prototypes start as the tokens of pool "
        "instead of learned vectors, and there are as many as the budget; a feed-forward network after each attention; "
        "no mixing of two videos"
    )
    counterpart = "pool"
    memories: ClassVar[tuple[str, ...]] = ("video",)

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        spatial: int = 1,
        passes: int = 2,
        inner: int | None = None,
        heads: int | None = None,
        ortho: float = 0.01,
        rebuild: float = 0.0,
        dim: int | None = None,
    ) -> None:
        super().__init__(
            budget,
            counterpart="pool",
            counterpart_params={"spatial": spatial},
            passes=passes,
            inner=inner,
            heads=heads,
            rebuild=rebuild,
            dim=dim,
        )
        if not 0 <= ortho <= MAX_SIZE:
            raise ConfigError(f"prototypes: ortho is out of range: {ortho}")
        self.spatial, self.ortho = spatial, ortho

    def read_memory(self, video: VideoTokens, base: VideoTokens) -> Memory:
        frames, places = video.grid[0], time_features(video)
        features, described = [video.features], [places]
        for window in WINDOWS:
            if window <= frames:
                runs = -(-frames // window)
                groups = self._groups(video, runs)
                for parts, values in ((features, video.features), (described, places)):
                    parts.append(segment_mean(values, torch.ones_like(groups), groups, runs * video.per_frame))
        return Memory(torch.cat(features)[None], torch.cat(described)[None], torch.zeros_like(base.index))

    def losses(self, video: VideoTokens, tokens: VideoTokens, scale: Tensor) -> dict[str, Tensor]:
        losses = super().losses(video, tokens, scale)
        if self.training and self.ortho > 0:
            losses["ortho"] = self.ortho * squared_cosine(tokens.features.to(scale.dtype) / scale)
        return losses

    @staticmethod
    def _groups(video: VideoTokens, runs: int) -> Tensor:
        """Return the (N,) int64 window of frames and place of each token, of the given number of windows."""
        places = torch.arange(video.per_frame, device=video.features.device)
        window = split_runs(video.grid[0], runs, places.device)
        return (window[:, None] * video.per_frame + places).reshape(-1)


def squared_cosine(tokens: Tensor) -> Tensor:
    """Return the mean of the squared cosines of all pairs of different (k, D) tokens, a scalar in fp32 or wider.

    The sum over all pairs is the squared norm of the smaller one of two products of the unit tokens.
    """
    k, width = tokens.shape
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    with torch.autocast(tokens.device.type, enabled=False):
        unit = torch.nn.functional.normalize(wide, dim=-1, eps=EPS)
        pairs = unit @ unit.T if k <= width else unit.T @ unit
        own = unit.square().sum(-1).square().sum()
        return (pairs.square().sum() - own) / max(1, k * (k - 1))
