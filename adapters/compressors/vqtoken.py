"""VQToken: the codebook of ``vq``, changed by attention (arXiv 2503.16980)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.layers.time_encoding import TIME_FEATURES, time_features
from framefold.adapters.ops.segments import segment_sum

from .resampler import Memory, Resampler

MEMBER_FEATURES = 7  # mean and spread of time, row and column, and the size


class VQToken(Resampler):
    """Lets the tokens of ``vq`` attend to each other, or to the video, knowing where their members are.

    A query is a cluster mean with the mean and the spread of the times, rows and columns of its members and the
    logarithm of its size. In the paper, it is the list of the numbers of the clusters of all tokens, which depends on
    how clusters are numbered. Before training, this equals ``vq`` bit by bit.

    Args:
        budget: retention ratio or tokens per video.
        norm: see :class:`~framefold.adapters.compressors.vq.VQ`.
        segment_frames: see :class:`~framefold.adapters.compressors.vq.VQ`.
        time_weight: see :class:`~framefold.adapters.compressors.vq.VQ`.
        rounds: see :class:`~framefold.adapters.compressors.vq.VQ`.
        memory: what a token attends to: the "codebook" of all k tokens, as in the paper, or all tokens of the "video".
        layers: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        inner: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        heads: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        rebuild: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "vqtoken"
    paper = "VQToken, arXiv 2503.16980"
    keeps = "means of the clusters of spherical k-means, changed by attention among them"
    cost = "that of vq, and layers * attention among the k tokens"
    licence = "BSD-3-Clause"
    deviations = (
        "k clusters and tokens instead of 32; queries from where the members of a cluster are instead of from the "
        "numbers of the clusters of all tokens; starts at vq instead of with random weights"
    )
    counterpart = "vq"
    features: ClassVar[int] = TIME_FEATURES + MEMBER_FEATURES
    memories: ClassVar[tuple[str, ...]] = ("codebook", "video")

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        norm: Literal["unit", "raw"] = "unit",
        segment_frames: int | None = None,
        time_weight: float = 0.0,
        rounds: int = 10,
        memory: Literal["codebook", "video"] = "codebook",
        layers: int = 1,
        inner: int | None = None,
        heads: int | None = None,
        rebuild: float = 0.0,
        dim: int | None = None,
    ) -> None:
        clusters = {"norm": norm, "segment_frames": segment_frames, "time_weight": time_weight, "rounds": rounds}
        super().__init__(
            budget,
            counterpart="vq",
            counterpart_params=clusters,
            memory=memory,  # type: ignore[arg-type]
            layers=layers,
            inner=inner,
            heads=heads,
            rebuild=rebuild,
            dim=dim,
        )
        self.norm, self.segment_frames = norm, segment_frames  # type: ignore[assignment]
        self.time_weight, self.rounds = time_weight, rounds

    def query_features(self, video: VideoTokens, base: VideoTokens) -> Tensor:
        return torch.cat([time_features(base), member_features(video, base)], -1)

    def read_memory(self, video: VideoTokens, base: VideoTokens) -> Memory:
        if self.memory == "video":
            return super().read_memory(video, base)
        return Memory(base.features[None], time_features(base)[None], torch.zeros_like(base.index))


def member_features(video: VideoTokens, base: VideoTokens) -> Tensor:
    """Return (k, MEMBER_FEATURES) fp32 features of where the members of each token are.

    Times, rows and columns are relative to those of the video; the size is the logarithm of that relative to the mean.
    """
    height, width = video.grid[1:]
    k = len(base)
    cell = video.index % video.per_frame
    seconds = (video.times - video.times[0])[video.index // video.per_frame]
    seconds = seconds / seconds[-1].clamp(min=torch.finfo(seconds.dtype).tiny)
    at = torch.stack([seconds, (cell // width + 0.5) / height, (cell % width + 0.5) / width], -1)
    size = base.size[:, None].float()
    mean = segment_sum(at, base.assign, k) / size
    spread = (segment_sum((at - mean[base.assign]).square(), base.assign, k) / size).sqrt()
    return torch.cat([mean, spread, (size * k / base.size.sum()).log()], -1)
