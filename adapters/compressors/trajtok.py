"""TrajTok: soft clusters of tokens in a learned space (arXiv 2602.22779)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from framefold.adapters.base.merger import merge
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.sizes import check_sizes
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.core.width import matching_width

from .vq import VQ

LARGEST_INNER = 512
SHARPNESS = 16.0  # the scale of cosines at the start
EPS = 1e-12


class TrajTok(VQ):
    """Blends the clusters of ``vq`` with soft ones, whose memberships are learned.

    Within a segment, the membership of a token x in the cluster of mean c is the softmax over the clusters of scale *
    cos(f(x), f(c)), where f adds a network of two layers to the direction of a token, and the scale is learned. The
    soft mean of a cluster is the mean of all tokens of the segment, weighted by membership. A token of the output is
    the mean of ``vq``, moved towards the soft mean by a factor for each channel, which starts at zero: before training,
    this equals ``vq`` bit by bit. Sizes and anchors are those of ``vq``.

    In the release, learned queries find 128 trajectories in chunks of 8 frames, trained on masks of objects, and tokens
    attend within their trajectory. Trajectories without a token cost a token there; clusters of ``vq`` have members.

    Args:
        budget: retention ratio or tokens per video.
        norm: see :class:`~framefold.adapters.compressors.vq.VQ`.
        segment_frames: see :class:`~framefold.adapters.compressors.vq.VQ`; 8 is the length of the release's chunks.
        time_weight: see :class:`~framefold.adapters.compressors.vq.VQ`.
        rounds: see :class:`~framefold.adapters.compressors.vq.VQ`.
        inner: width of the network between its layers; None: D / 4, at most 512.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "trajtok"
    paper = "TrajTok, arXiv 2602.22779"
    keeps = "learned soft means around the clusters of spherical k-means"
    cost = "that of vq, two products per token, and its similarities to the clusters of its segment: up to k N D"
    licence = "Apache-2.0"
    deviations = (
        "any number of tokens instead of 128 for 8 frames; starts at the clusters of vq instead of learned queries, "
        "and needs no masks of objects; clusters the features of the host's encoder instead of those of a second one; "
        "blends means instead of attending within a trajectory"
    )
    trainable: ClassVar[bool] = True
    counterpart = "vq"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        norm: Literal["unit", "raw"] = "unit",
        segment_frames: int | None = None,
        time_weight: float = 0.0,
        rounds: int = 10,
        inner: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(budget, norm=norm, segment_frames=segment_frames, time_weight=time_weight, rounds=rounds)
        check_sizes(self.name, inner=inner, dim=dim)
        self.inner, self.dim = inner, dim
        self.blend: nn.Parameter | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.blend is not None:
            return
        self.inner = self.inner or min(max(1, width // 4), LARGEST_INNER)
        self.network = nn.Sequential(nn.Linear(width, self.inner), nn.GELU(), nn.Linear(self.inner, width, bias=False))
        last = self.network[2]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.1 / self.inner**0.5)
        self.log_scale = nn.Parameter(torch.full((1,), math.log(SHARPNESS)))  # FSDP2 does not shard scalars
        self.blend = nn.Parameter(torch.zeros(width))
        self.to(device)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        assert self.blend is not None  # created by materialize()
        base = merge(video, self.assign(video, k, query), k)
        wide = torch.promote_types(video.features.dtype, torch.float32)
        hard = base.features.to(wide)
        sizes, counts = self.segments(video, k)
        parts = zip(video.features.split(sizes), hard.split(counts), strict=True)
        with torch.autocast(hard.device.type, enabled=False):  # bf16 means would differ from those of vq by rounding
            soft = torch.cat([self.soft_means(x.to(wide), means) for x, means in parts])
        return replace(base, features=base.features + (self.blend * (soft - hard)).to(base.features.dtype))

    def soft_means(self, x: Tensor, means: Tensor) -> Tensor:
        """Return (c, D) means of (n, D) tokens, weighted by their membership in the clusters of (c, D) means."""
        similarity = self.embed(x) @ self.embed(means).T
        membership = (self.log_scale.to(x.dtype).exp() * similarity).softmax(1)
        return membership.T @ x / membership.sum(0).clamp_min(EPS)[:, None]

    def embed(self, x: Tensor) -> Tensor:
        """Return (n, D) directions of tokens in the learned space."""
        unit = x * x.square().mean(-1, keepdim=True).add(EPS**2).rsqrt()
        change = self.network(unit.to(self.log_scale.dtype)).to(unit.dtype)
        return nn.functional.normalize(unit + change, dim=-1)
