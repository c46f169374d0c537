"""TDC: static frames, and summaries of what follows that attend to their segment (arXiv 2504.10443)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.layers.time_encoding import time_features

from .resampler import Memory, Resampler, rms
from .static_mean import StaticMean


class TDC(Resampler):
    """Keeps the first frame of each segment as it is, and lets the means of what follows attend to their segment.

    Segments, first frames and means are those of ``static_mean``. A mean attends to all tokens of its segment, also to
    the first frame, and to nothing else; so a change in one segment changes no token of another one as long as the
    segments stay the same. Before training, this equals ``static_mean`` bit by bit.

    In the release, a BERT with learned cross-attention summarizes each frame by itself, and frames of a segment meet in
    the queries alone, which are averages of its first frame.

    Args:
        budget: retention ratio or tokens per video.
        static_share: see :class:`~framefold.adapters.compressors.static_mean.StaticMean`.
        reads: "question" adds a block before each one, in which tokens attend to the words of the question, as those of
            the release do.
        layers: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        inner: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        heads: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        rebuild: see :class:`~framefold.adapters.compressors.resampler.Resampler`.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "tdc"
    paper = "TDC, arXiv 2504.10443"
    keeps = "first frames of segments, and means of what follows, changed by attention to their segment"
    cost = "that of static_mean, and layers * attention of the means to the tokens of their segment"
    licence = "none"
    deviations = (
        "any budget; a summary attends to its segment instead of one frame, and starts as a mean of its own tokens; "
        "blocks without self-attention and the embeddings of the host instead of a BERT; segments from the features of "
        "the host instead of those of DINO; no separators, no unit length, no audio"
    )
    counterpart = "static_mean"
    memories: ClassVar[tuple[str, ...]] = ("segment",)

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        static_share: float = 0.55,
        reads: Literal["nothing", "question"] = "nothing",
        layers: int = 1,
        inner: int | None = None,
        heads: int | None = None,
        rebuild: float = 0.0,
        dim: int | None = None,
    ) -> None:
        super().__init__(
            budget,
            counterpart="static_mean",
            counterpart_params={"static_share": static_share},
            memory="segment",
            reads=reads,
            layers=layers,
            inner=inner,
            heads=heads,
            rebuild=rebuild,
            dim=dim,
        )
        self.static_share = static_share

    def changes(self, video: VideoTokens, base: VideoTokens, query: Tensor | None) -> tuple[Tensor, Tensor]:
        described = self.query_features(video, base)
        scale = rms(video.features[None])[0].expand(len(base), 1)
        change = scale.new_zeros(base.features.shape)
        parts = [
            (rows, *self.attend(base.features[rows], described[rows], memory, query))
            for rows, memory in self.segments(video, base)
        ]
        rows, changes, scales = (torch.cat(one) for one in zip(*parts, strict=True))
        return change.index_put((rows,), changes), scale.index_put((rows,), scales)

    def segments(self, video: VideoTokens, base: VideoTokens) -> Iterator[tuple[Tensor, Memory]]:
        """Yield the rows of the means of each segment that has some, and what they attend to."""
        segment, static = cast(StaticMean, self.start).segments(video, len(base))
        frame, places = base.index // video.per_frame, time_features(video)
        attends = ~static[frame]
        for number in segment[frame[attends]].unique():
            rows = (attends & (segment[frame] == number)).nonzero()[:, 0]
            members = (segment == number).repeat_interleave(video.per_frame)
            yield rows, Memory(video.features[members][None], places[members][None], torch.zeros_like(rows))
