"""B-VLLM: whole frames that are selected by the question (arXiv 2412.09919)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.sizes import MAX_SIZE, check_sizes
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.time_encoding import TIME_FEATURES, time_features
from framefold.adapters.ops.partition import even_positions
from framefold.errors import ConfigError

PRIOR = 4.0  # by how much a row prefers its own frame, at the start
LEAST_SPREAD = 1e-3  # of frames, relative to their size; below it they count as equal
EPS = 1e-12


class BVLLM(Compressor):
    """Keeps whole frames that fit the question; the rest of the budget as evenly spaced tokens of one more frame.

    There is one row for each frame that ``uniform`` keeps. The logit of a frame in a row is <key(frame), query(row)> /
    sqrt(inner), minus a learned number unless it is the row's own frame, the one that ``uniform`` keeps. The query is a
    linear function of the mean word of the question and of the time of the row's own frame; the key is one of the mean
    token of a frame, relative to that of the video, and of its time. Each row takes its best frame that no earlier row
    has taken. The query starts at zero, so that before training this equals ``uniform`` bit by bit.

    Taking the best frame has no gradient: that of the mean of all frames, weighted by the softmax of the row, replaces
    it. ``scores`` are the mean logits of the rows, without the preference, so that losses of scores train which frames
    count.

    In the release, a query transformer gives 16 queries, each keeps a weighted mean of all frames, and similar ones are
    merged, which leaves a part of the budget unused.

    Args:
        budget: retention ratio or tokens per video.
        inner: width of keys and queries.
        noise: scale of Gumbel noise that is added to the logits during training; the release also adds it afterwards.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "bvllm"
    paper = "B-VLLM, arXiv 2412.09919"
    keeps = "whole frames that fit the question; the rest of the budget as evenly spaced tokens of one more"
    cost = "one mean per frame and one product per frame and row; in training, one more pass over the tokens per row"
    licence = "Apache-2.0"
    deviations = (
        "whole frames at any budget instead of 16 weighted means of frames with up to 32 tokens each; frames in the "
        "order of time; rows that want the same frame take the next best one instead of being merged; linear layers "
        "instead of two query transformers; no noise at inference"
    )
    trainable: ClassVar[bool] = True
    query_aware: ClassVar[bool] = True
    returns_scores = True
    counterpart = "uniform"

    def __init__(self, budget: Budget = 0.25, *, inner: int = 64, noise: float = 0.0, dim: int | None = None) -> None:
        super().__init__(budget)
        check_sizes(self.name, inner=inner, dim=dim)
        if not 0 <= noise <= MAX_SIZE:
            raise ConfigError(f"bvllm: noise is out of range: {noise}")
        self.inner, self.noise, self.dim = inner, noise, dim
        self.key: nn.Linear | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.key is not None:
            return

        def layer(size: int) -> nn.Linear:
            return nn.Linear(size, self.inner, bias=False)

        self.key, self.word = layer(width), layer(width)
        self.key_time, self.query_time = layer(TIME_FEATURES), layer(TIME_FEATURES)
        for zero in (self.word, self.query_time, self.key_time):
            nn.init.zeros_(zero.weight)
        self.prior = nn.Parameter(torch.full((1,), PRIOR))  # FSDP2 does not shard scalars
        self.to(device)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        assert query is not None  # checked by forward()
        frames, cells, device = video.grid[0], video.per_frame, video.features.device
        whole, rest = divmod(k, cells)
        own = even_positions(frames, whole + (rest > 0), device)
        content = self.content(video, query, own)
        away = torch.arange(frames, device=device) != own[:, None]
        logits = content - self.prior.to(content.dtype) * away
        if self.training and self.noise > 0:
            logits = logits - self.noise * torch.empty_like(logits).exponential_().log()
        places = torch.arange(cells, device=device).repeat(len(own), 1).reshape(-1)
        if rest:
            places = torch.cat([places[: whole * cells], even_positions(cells, rest, device)])
        row = torch.arange(k, device=device) // cells
        index = distinct_frames(logits.detach())[row] * cells + places
        kept = video.keep(index.sort().values)
        if torch.is_grad_enabled():
            kept = replace(kept, features=kept.features + self.surrogate(video, logits)[row, places][index.argsort()])
        return Compressed(kept, scores=content.mean(0).repeat_interleave(cells))

    def content(self, video: VideoTokens, query: Tensor, own: Tensor) -> Tensor:
        """Return (R, T) logits of the frames in each row by question and time, in fp32 or wider.

        Args:
            video: T frames.
            query: (L, D) words of the question.
            own: (R,) int64 frames of the rows.
        """
        assert self.key is not None  # created by materialize()
        dtype = self.key.weight.dtype
        word = query.to(torch.promote_types(query.dtype, torch.float32)).mean(0, keepdim=True)
        word = word / _rms(word)
        keys = video.once(self, partial(self.keys, video))
        times = time_features(video)[own * video.per_frame].to(dtype)
        asked = self.word(word.to(dtype)) + self.query_time(times)
        wide = torch.promote_types(keys.dtype, torch.float32)
        with torch.autocast(keys.device.type, enabled=False):
            logits: Tensor = asked.to(wide) @ keys.to(wide).T / self.inner**0.5
        return logits

    def keys(self, video: VideoTokens) -> Tensor:
        """Return (T, inner) keys of the frames, which do not depend on the question."""
        assert self.key is not None
        dtype, wide = self.key.weight.dtype, torch.promote_types(video.features.dtype, torch.float32)
        means = video.as_grid().flatten(1, 2).to(wide).mean(1)
        differences = means - means.mean(0)
        scale = torch.maximum(_rms(differences), LEAST_SPREAD * _rms(means))
        times = time_features(video)[:: video.per_frame].to(dtype)
        keys: Tensor = self.key((differences / scale).to(dtype)) + self.key_time(times)
        return keys

    def surrogate(self, video: VideoTokens, logits: Tensor) -> Tensor:
        """Return (R, P, D) zeros with the gradient of the means of all frames, weighted by the rows."""
        frames = video.as_grid().flatten(1, 2).detach()
        with torch.autocast(frames.device.type, enabled=False):
            means = torch.einsum("rt,tpd->rpd", logits.softmax(-1).to(frames.dtype), frames)
        return means - means.detach()


def distinct_frames(logits: Tensor) -> Tensor:
    """Return the (R,) int64 frame of each row: its best one that no earlier row has taken.

    Args:
        logits: (R, T), finite, R <= T.
    """
    taken = torch.zeros_like(logits[0], dtype=torch.bool)
    chosen = []
    for row in logits:
        frame = row.masked_fill(taken, -torch.inf).argmax()
        taken[frame] = True
        chosen.append(frame)
    return torch.stack(chosen)


def _rms(x: Tensor) -> Tensor:
    """Return the RMS of all values, a scalar without a gradient; computed relative to the largest one."""
    x = x.detach()
    peak = x.abs().amax().clamp_min(EPS)
    return (x / peak).square().mean().sqrt().clamp_min(EPS) * peak
