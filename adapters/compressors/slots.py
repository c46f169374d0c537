"""Slots over all tokens of a video, at the places of pooled tokens; VTG-LLM (arXiv 2405.13382)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from framefold.adapters.base.merger import merge
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.sizes import check_sizes, inner_width
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.time_encoding import PLACE_FEATURES, TIME_FEATURES, place_features, time_features

from .pool import Pool

MOST_PAIRS = 2**24  # of a slot and a token at once
NEARNESS = 3.0  # logarithm of how fast the weights fall over the length of a video, at the start
EPS = 1e-12


class Slots(Pool):
    """Adds to each token of ``pool`` a slot: a weighted mean of all tokens, first of those that are near in time.

    The logit of a token x in the slot g is <x, p(g)> / sqrt(C) - exp(a) |t_x - t_g|, with times relative to the length
    of the video and a learned; the weights are the softmax over all tokens. p(g) is one learned vector plus a linear
    function of time and place of the anchor. Tokens have an encoding of their time added and, above a width of 1,023,
    pass through a linear layer. A linear layer leads from the slot to the output; it starts at zero, which equals
    ``pool`` bit by bit.

    In the release, a slot is a learned vector, so that their number is fixed and none has a place in the video, and
    times are rows of tables, of 96 frames and 8,192 seconds. Here, functions of the time take their place, so that
    videos may have any length.

    Args:
        budget: retention ratio or tokens per video.
        spatial: see :class:`~framefold.adapters.compressors.pool.Pool`.
        inner: C, width of the slots; None: D itself below 1024, otherwise 512.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "slots"
    paper = "VTG-LLM, arXiv 2405.13382"
    keeps = "means over time and space, each with a learned weighted mean of all tokens added"
    cost = "two products of k slots with all tokens"
    growth = "quadratic"
    licence = "NOASSERTION"
    deviations = (
        "any number of slots instead of 256, each at the place of a token of pool, to which it is added; functions of "
        "time instead of tables; logits are scaled, and prefer tokens that are near in time"
    )
    trainable: ClassVar[bool] = True
    counterpart = "pool"

    def __init__(
        self, budget: Budget = 0.25, *, spatial: int = 1, inner: int | None = None, dim: int | None = None
    ) -> None:
        super().__init__(budget, spatial=spatial)
        check_sizes(self.name, inner=inner, dim=dim)
        self.inner, self.dim = inner, dim
        self.up: nn.Linear | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.up is not None:
            return
        self.inner = inner_width(self.inner, width)
        self.down = nn.Linear(width, self.inner) if self.inner != width else None
        self.when = nn.Linear(TIME_FEATURES, self.inner, bias=False)
        self.slot = nn.Linear(TIME_FEATURES + PLACE_FEATURES, self.inner)
        self.nearness = nn.Parameter(torch.full((1,), NEARNESS))  # FSDP2 does not shard scalars
        self.up = nn.Linear(self.inner, width, bias=False)
        nn.init.normal_(self.slot.bias)
        for layer in (self.when, self.up):
            nn.init.zeros_(layer.weight)
        self.to(device)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        assert self.up is not None  # created by materialize()
        base = merge(video, self.assign(video, k, query), k)
        wide, dtype = torch.promote_types(video.features.dtype, torch.float32), self.up.weight.dtype
        scale = _rms(video.features.detach().to(wide))
        times = time_features(video).to(dtype)
        described = torch.cat([time_features(base), place_features(base)], -1).to(dtype)
        tokens = (video.features.to(wide) / scale).to(dtype)
        tokens = (tokens if self.down is None else self.down(tokens)) + self.when(times)
        slots = self.read(tokens, self.slot(described), _relative_times(video), _relative_times(base))
        change = self.up(slots.to(dtype)).to(wide) * scale
        return replace(base, features=base.features + change.to(base.features.dtype))

    def read(self, tokens: Tensor, slots: Tensor, times: Tensor, anchors: Tensor) -> Tensor:
        """Return the (k, C) means of all tokens, weighted by k slots, in fp32 or wider.

        Args:
            tokens: (N, C).
            slots: (k, C).
            times: (N,) of the tokens, relative to the length of the video.
            anchors: (k,) of the slots.
        """
        wide = torch.promote_types(tokens.dtype, torch.float32)
        tokens, slots = tokens.to(wide), slots.to(wide) / math.sqrt(tokens.shape[1])
        rate, rows = self.nearness.to(wide).exp(), max(1, MOST_PAIRS // len(tokens))
        means = []
        with torch.autocast(tokens.device.type, enabled=False):
            for slot, anchor in zip(slots.split(rows), anchors.to(wide).split(rows), strict=True):
                logits = slot @ tokens.T - rate * (anchor[:, None] - times.to(wide)).abs()
                means.append(logits.softmax(-1) @ tokens)
        return torch.cat(means)


def _relative_times(video: VideoTokens) -> Tensor:
    """Return the times of tokens, 0 for the first frame of the video and 1 for the last one."""
    seconds = video.times - video.times[0]
    return (seconds / seconds[-1].clamp(min=torch.finfo(seconds.dtype).tiny))[video.index // video.per_frame]


def _rms(x: Tensor) -> Tensor:
    """Return the RMS of (N, D) features, a scalar; computed relative to the largest value."""
    peak = x.abs().amax().clamp_min(EPS)
    return (x / peak).square().mean().sqrt().clamp_min(EPS) * peak
