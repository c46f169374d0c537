"""X-Pool: means over time and space whose weights depend on the question (arXiv 2203.15086)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from framefold.adapters.base.merger import merge
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.sizes import check_sizes
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.context_network import ContextNetwork, check_context, unit_frames
from framefold.adapters.layers.time_encoding import TIME_FEATURES, time_features
from framefold.adapters.ops.segments import segment_sum, weighted_segment_sum
from framefold.errors import ConfigError

from .pool import Pool

EPS = 1e-24  # small, because the scale of features differs between hosts by orders of magnitude


class XPool(Pool):
    """Averages the groups of ``pool`` with weights by the question.

    The logit of a token x is the largest <key(x), query(word)> / sqrt(inner) over the words of the question, where key
    and query are linear layers of tokens and words divided by their RMS, and the key also encodes the time. The weights
    are the softmax of the logits over the group. The key starts at zero, which equals ``pool`` bit by bit.

    The paper pools whole frames into one vector for each text, by attention between linear layers that start as the
    identity, and normalizes the result; here, values are the tokens themselves, so that means keep their size.

    ``scores`` are the logarithms of the weights relative to equal ones, so that distillation ("evidence" or
    "attention" in ``model.losses``) trains which tokens of a group count.

    Args:
        budget: retention ratio or tokens per video.
        spatial: see :class:`~framefold.adapters.compressors.pool.Pool`.
        reads: "question", or "nothing" for weights that depend on the tokens alone, a control.
        inner: width of keys and queries.
        context: widths of the layers of a network that adds the surroundings of a token to its key, see
            :class:`~framefold.adapters.layers.context_network.ContextNetwork`; empty: none, as in the paper.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "xpool"
    paper = "X-Pool, arXiv 2203.15086"
    keeps = "means over time and space, weighted by the question"
    cost = "one product per token and one per token and word"
    licence = "none"
    deviations = (
        "pools the groups of pool instead of all frames; weights by the best word instead of one vector of the text; "
        "averages tokens as they are, without projections and norms after the attention"
    )
    trainable: ClassVar[bool] = True
    query_aware: ClassVar[bool] = True
    returns_scores = True
    counterpart = "pool"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        spatial: int = 1,
        reads: Literal["question", "nothing"] = "question",
        inner: int = 64,
        context: tuple[int, ...] = (),
        dim: int | None = None,
    ) -> None:
        super().__init__(budget, spatial=spatial)
        if reads not in ("question", "nothing"):
            raise ConfigError(f"xpool: reads must be 'question' or 'nothing', got {reads!r}")
        check_sizes(self.name, inner=inner, dim=dim)
        check_context(self.name, context)
        self.reads, self.inner, self.context, self.dim = reads, inner, context, dim
        self.query_aware = reads == "question"  # type: ignore[misc]
        self.key: nn.Linear | None = None
        self.surroundings: ContextNetwork | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.key is not None:
            return
        self.key, self.time = nn.Linear(width, self.inner, bias=False), nn.Linear(TIME_FEATURES, self.inner, bias=False)
        nn.init.zeros_(self.key.weight)
        nn.init.zeros_(self.time.weight)
        self.surroundings = ContextNetwork(width, self.context, self.inner) if self.context else None
        self.content = nn.Parameter(torch.randn(self.inner))  # what the weights depend on without a question
        self.query = nn.Linear(width, self.inner, bias=False) if self.reads == "question" else None
        if self.query is not None:
            nn.init.normal_(self.query.weight, std=width**-0.5)
        self.to(device)

    def compress(  # type: ignore[override]
        self, video: VideoTokens, k: int, query: Tensor | None
    ) -> Compressed:
        base = merge(video, self.assign(video, k, query), k)
        groups = base.assign  # of a dense video, the output row of each token
        logits = self.logits(video, query)
        peak = logits.new_full((k + 1,), -torch.inf).scatter_reduce(0, groups, logits.detach(), "amax")
        logits = logits - peak[groups]
        weights = logits.exp()
        total = segment_sum(weights, groups, k)
        features = weighted_segment_sum(video.features, weights, groups, k) / total[:, None]
        tokens = replace(base, features=features.to(video.features.dtype))
        return Compressed(tokens, scores=logits + (base.size / total).log()[groups])

    def logits(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        """Return (N,) logits of the weights, in fp32 or wider."""
        assert self.key is not None  # created by materialize()
        dtype = self.key.weight.dtype
        keys = video.once(self, partial(self.keys, video))
        asked = self.content[None]
        if self.query is not None:
            assert query is not None  # checked by forward()
            asked = asked + self.query(_unit(query).to(dtype))
        wide = torch.promote_types(keys.dtype, torch.float32)
        with torch.autocast(keys.device.type, enabled=False):
            logits: Tensor = keys.to(wide) @ asked.to(wide).T / self.inner**0.5
        return logits.amax(1)

    def keys(self, video: VideoTokens) -> Tensor:
        """Return (N, inner) keys, which do not depend on the question."""
        assert self.key is not None
        dtype = self.key.weight.dtype
        keys: Tensor = self.key(_unit(video.features).to(dtype)) + self.time(time_features(video).to(dtype))
        if self.surroundings is not None:
            keys = keys + self.surroundings(unit_frames(video.features, video.grid)).to(keys.dtype)
        return keys


def _unit(x: Tensor) -> Tensor:
    """Return the rows divided by their RMS, in fp32 or wider."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * wide.square().mean(-1, keepdim=True).add(EPS).rsqrt()
