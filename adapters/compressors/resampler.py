"""Resampler: the tokens of a training-free method attend to the video. Skeleton of the trained query transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.parameters import init_params
from framefold.adapters.core.registry import CHAIN_SEPARATOR, compressor_class, create_compressor
from framefold.adapters.core.sizes import MAX_SIZE, inner_width
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.anchored_resampler import AnchoredResampler, TokenRebuilder, rebuild_loss
from framefold.adapters.layers.time_encoding import PLACE_FEATURES, TIME_FEATURES, place_features, time_features
from framefold.errors import ConfigError
from framefold.messages import short

EPS = 1e-12  # small, because the scale of features differs between hosts by orders of magnitude


@dataclass(frozen=True)
class Memory:
    """What the tokens of the counterpart attend to: W windows of M tokens.

    Attributes:
        features: (W, M, D).
        places: (W, M, F) features that are added to the keys.
        window: (k,) int64 window of each token of the counterpart, ascending.
    """

    features: Tensor
    places: Tensor
    window: Tensor


class Resampler(Compressor):
    """Lets the tokens of a training-free method, the counterpart, attend to the video.

    The counterpart determines number, anchors and sizes of the tokens. Its tokens, with an encoding of their times, are
    the queries of cross-attention blocks, whose keys are tokens of the video; the output is the counterpart's plus the
    change of the queries. The blocks start as the identity, so that an untrained model equals the counterpart bit by
    bit. The number of parameters does not depend on the budget, so that one adapter serves all of them. Features are
    divided by the RMS of what is attended to, and changes are multiplied by it.

    It stands for the released resamplers, whose learned queries are fixed in number: a perceiver over the tokens of a
    clip (Divot, arXiv 2412.04432) is ``pool`` with ``memory="segment"``; the Q-Former of a frame (OmniVid) is ``pool``
    with ``memory="frame"``; and ``reads="question"`` gives queries the words, as a Q-Former does.

    With ``rebuild``, the loss "rebuild" is returned during training: 1 - cosine between the tokens of the video and
    their predictions from the compressed tokens. It needs no labels, see ``model.losses``.

    Args:
        budget: retention ratio or tokens per video.
        counterpart: registered name of a training-free compressor that meets every budget.
        counterpart_params: parameters of that compressor that differ from its defaults.
        memory: what a token attends to: all tokens of the "video", those of its "segment", or those of its "frame".
        segment_frames: number of frames of a segment; the last one of a video consists of its last frames.
        reads: "question" adds a block before each one, in which tokens attend to the words of the question.
        layers: number of blocks.
        passes: how often the tokens pass through all blocks, with the same weights.
        inner: width of the blocks, between two linear layers; None: D itself below 1024, otherwise 512.
        heads: number of attention heads; None: one per 64 channels of a block.
        rebuild: weight of the loss "rebuild"; 0 creates no parameters for it.
        dim: token width D; None: that of the first video.

    Raises:
        UnknownCompressorError: ``counterpart`` is not registered.
        ConfigError: the counterpart must be trained, has no exact budget, acts inside the language model or is a chain;
            or a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "resampler"
    keeps = "tokens of a training-free method, changed by attention to the video"
    cost = "that of its counterpart, and layers * attention of k queries to the tokens of the memory"
    growth = "quadratic"
    trainable: ClassVar[bool] = True
    counterpart = "scene_mean"
    features: ClassVar[int] = TIME_FEATURES  # number of features of a query
    memories: ClassVar[tuple[str, ...]] = ("video", "segment", "frame")

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        counterpart: str = "scene_mean",
        counterpart_params: dict | None = None,
        memory: Literal["video", "segment", "frame"] = "video",
        segment_frames: int = 8,
        reads: Literal["nothing", "question"] = "nothing",
        layers: int = 1,
        passes: int = 1,
        inner: int | None = None,
        heads: int | None = None,
        rebuild: float = 0.0,
        dim: int | None = None,
    ) -> None:
        super().__init__(budget)
        self.counterpart, self.counterpart_params = counterpart, counterpart_params
        self.memory, self.segment_frames, self.reads = memory, segment_frames, reads
        self.layers, self.passes, self.inner, self.heads = layers, passes, inner, heads
        self.rebuild, self.dim = rebuild, dim
        self._check()
        self.start = _training_free(self.name, counterpart, counterpart_params or {})
        self.query_aware = reads == "question" or self.start.query_aware  # type: ignore[misc]
        self.needs_attention = self.start.needs_attention
        self.resampler: AnchoredResampler | None = None
        self.rebuilder: TokenRebuilder | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def _check(self) -> None:
        sizes = ("segment_frames", "layers", "passes", "inner", "heads", "dim")
        wrong = [key for key in sizes if (value := getattr(self, key)) is not None and not 1 <= value <= MAX_SIZE]
        wrong += [] if self.memory in self.memories else ["memory"]
        wrong += [] if self.reads in ("nothing", "question") else ["reads"]
        wrong += [] if 0 <= self.rebuild <= MAX_SIZE else ["rebuild"]
        if wrong:
            values = ", ".join(f"{key}={getattr(self, key)!r}" for key in wrong)
            raise ConfigError(f"{self.name}: out of range: {values}")

    @classmethod
    def counterpart_of(cls, params: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        if "counterpart" not in init_params(cls):  # a subclass with a fixed one
            return super().counterpart_of(params)
        return params.get("counterpart", cls.counterpart), dict(params.get("counterpart_params") or {})

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.resampler is not None:
            return
        self.inner = inner_width(self.inner, width)
        self.heads = self.heads or max(1, self.inner // 64)
        asks = self.reads == "question"
        sizes = (width, self.inner, self.layers, self.heads, self.features, TIME_FEATURES)
        self.resampler = AnchoredResampler(*sizes, asks=asks, passes=self.passes)
        if self.rebuild > 0:
            self.rebuilder = TokenRebuilder(width, self.inner, self.heads, TIME_FEATURES + PLACE_FEATURES)
        self.to(device)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        assert self.resampler is not None  # created by materialize()
        self.start.budget = k
        base = self.start(video, query).tokens
        change, scale = self.changes(video, base, query)
        tokens = replace(base, features=base.features + (change * scale).to(base.features.dtype))
        return Compressed(tokens, self.losses(video, tokens, scale))

    def changes(self, video: VideoTokens, base: VideoTokens, query: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the (k, D) changes of the tokens of the counterpart, and the (k, 1) scales of their units."""
        return self.attend(base.features, self.query_features(video, base), self.read_memory(video, base), query)

    def attend(self, tokens: Tensor, described: Tensor, memory: Memory, query: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (k, D) changes of tokens and the (k, 1) scales of their units, in fp32 or wider.

        Args:
            tokens: (k, D).
            described: (k, F) features that are added to their queries.
            memory: what they attend to.
            query: (L, D) words of the question.
        """
        assert self.resampler is not None
        dtype, scale = self.resampler.dtype, rms(memory.features)
        own = scale[memory.window, 0]
        words = None
        if self.reads == "question":
            assert query is not None  # checked by forward()
            words = (query.to(scale.dtype) / rms(query[None])[0]).to(dtype)
        change: Tensor = self.resampler(
            (tokens.to(scale.dtype) / own).to(dtype),
            (memory.features.to(scale.dtype) / scale).to(dtype),
            described.to(dtype),
            memory.places.to(dtype),
            memory.window,
            words,
        )
        return change.to(scale.dtype), own

    def query_features(self, video: VideoTokens, base: VideoTokens) -> Tensor:
        """Return (k, F) features of the tokens of the counterpart that are added to the queries."""
        return time_features(base)

    def read_memory(self, video: VideoTokens, base: VideoTokens) -> Memory:
        """Return what the tokens of the counterpart attend to; windows without such a token are left out."""
        frames, places = video.grid[0], time_features(video)
        if self.memory == "video":
            return Memory(video.features[None], places[None], torch.zeros_like(base.index))
        span = 1 if self.memory == "frame" else min(self.segment_frames, frames)
        size = span * video.per_frame
        number, window = torch.unique_consecutive(base.index // size, return_inverse=True)
        first = (number * span).clamp_max(frames - span) * video.per_frame
        rows = first[:, None] + torch.arange(size, device=first.device)
        return Memory(video.features[rows], places[rows], window)

    def losses(self, video: VideoTokens, tokens: VideoTokens, scale: Tensor) -> dict[str, Tensor]:
        """Return the loss "rebuild" during training, if it has a weight."""
        if self.rebuilder is None or not self.training:
            return {}
        dtype = self.rebuilder.query.weight.dtype
        features, wanted = (
            torch.cat([time_features(one), place_features(one)], -1).to(dtype) for one in (tokens, video)
        )
        predicted = self.rebuilder((tokens.features.to(scale.dtype) / scale).to(dtype), features, wanted)
        return {"rebuild": self.rebuild * rebuild_loss(predicted, video.features)}


def _training_free(owner: str, name: str, params: Mapping[str, Any]) -> Compressor:
    """Build the counterpart of a resampler.

    Raises:
        ConfigError: it must be trained, has no exact budget, acts inside the language model, or is a chain.
    """
    cls = compressor_class(name)
    if not cls.trainable and CHAIN_SEPARATOR not in name:  # before it is built: a resampler could contain itself
        start = cast(Compressor, create_compressor(cls, 1.0, params))
        if start.exact_budget and start.in_llm is None:
            return start
    raise ConfigError(
        f"{owner}: counterpart must be one training-free method that meets every budget and acts before the language"
        f" model, not {short(name)}"
    )


@torch.no_grad()
def rms(x: Tensor) -> Tensor:
    """Return (W, 1, 1) RMS of (W, M, D) features, in fp32 or wider; computed relative to the largest value."""
    wide = torch.promote_types(x.dtype, torch.float32)
    peak = x.abs().amax((1, 2), keepdim=True).to(wide).clamp_min(EPS)
    return (x.to(wide) / peak).square().mean((1, 2), keepdim=True).sqrt().clamp_min(EPS) * peak
