"""Base class of methods that divide the budget among the frames of a video; another compressor fills each frame.

Dimensions: T frames of P = H*W tokens, N = T*P, m parts of consecutive frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.registry import CHAIN_SEPARATOR, compressor_class, create_compressor
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.selection import rank_in_group
from framefold.adapters.ops.similarity import TINY, Frames, normalize, rescale_if_extreme
from framefold.errors import ConfigError, InputError

from .compressor import Compressor
from .merger import Merger, merge
from .selector import Selector

ROUNDING = 1e-6  # of cosine similarities in fp32

Scorer = Callable[[VideoTokens, Tensor | None], Tensor]


class FrameBudget(Compressor):
    """Gives each part of a video a number of tokens, and fills the parts with another compressor.

    Implement :meth:`relevance`, which scores frames, and :meth:`allocate`, which turns scores into numbers of tokens.
    Scores that another model has computed replace the former, see :meth:`score_with`. A part has one frame or several
    consecutive ones; its score is the highest of its frames.

    Args:
        budget: retention ratio or tokens per video.
        fill: registered name of the training-free compressor that fills the parts. A selector scores the whole video
            and keeps the best tokens of each part; any other compressor gets each part as a video of its own.
        fill_params: parameters of that compressor that differ from its defaults.
        segment_frames: number of consecutive frames that share a number of tokens; the last part may have fewer.
        empty: "join" adds frames without tokens to the part before them, "drop" drops them.

    Raises:
        UnknownCompressorError: ``fill`` is not registered.
        ConfigError: ``fill`` has no exact budget or must be trained, or a parameter is out of range.
    """

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        fill: str = "pool",
        fill_params: dict | None = None,
        segment_frames: int = 1,
        empty: Literal["join", "drop"] = "drop",
    ) -> None:
        super().__init__(budget)
        if segment_frames < 1:
            raise ConfigError(f"{self.name}: segment_frames must be at least 1, got {segment_frames}")
        if empty not in ("join", "drop"):
            raise ConfigError(f"{self.name}: empty must be 'join' or 'drop', got {empty!r}")
        self.fill, self.fill_params, self.segment_frames, self.empty = fill, fill_params, segment_frames, empty
        self.filler = cast(Compressor, create_compressor(compressor_class(fill), 1.0, fill_params or {}))
        if self.filler.trainable or not self.filler.exact_budget:
            raise ConfigError(f"{self.name}: fill must be training-free and meet every budget, which {fill} does not")
        if CHAIN_SEPARATOR in fill or self.filler.in_llm is not None:
            raise ConfigError(f"{self.name}: fill must be one method that acts before the language model, not {fill}")
        self.query_aware = self.query_aware or self.filler.query_aware  # type: ignore[misc]
        self.needs_attention = self.needs_attention or self.filler.needs_attention
        self.__dict__["_scorer"] = None

    def relevance(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        """Return (T,) scores of the frames of a dense video, at least 0; frames with higher scores get more tokens."""
        raise NotImplementedError(f"{type(self).__name__} must implement relevance()")

    def allocate(self, scores: Tensor, k: int, sizes: Tensor) -> Tensor:
        """Return the (m,) int64 tokens of each part, k in all and no more than it has.

        Args:
            scores: (m,) fp64 scores of the parts, on the CPU.
            k: number of tokens, at most the sum of ``sizes``.
            sizes: (m,) int64 number of tokens that each part has, on the CPU.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement allocate()")

    def score_with(self, scores: Tensor | Scorer | None) -> FrameBudget:
        """Use scores of another model instead of :meth:`relevance`. They are not saved with the compressor.

        Args:
            scores: (T,) scores of the frames or (m,) scores of the parts of the following videos; or a function of
                video and question that returns them for each video; or None for :meth:`relevance`.

        Returns:
            The compressor itself.

        Raises:
            InputError: ``scores`` is none of these.
        """
        if not (scores is None or isinstance(scores, Tensor) or callable(scores)):
            raise InputError(f"{self.name}: scores must be a tensor, a function or None, got {type(scores).__name__}")
        self.__dict__["_scorer"] = scores  # not a submodule, even if the function is a model
        return self

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        scores, sizes = self.part_scores(video, query)
        tokens = self.allocate(scores, k, sizes)
        number = (tokens > 0).cumsum(0) - 1  # of each part among those with tokens, or of the part before it
        number = number.clamp_min(0) if self.empty == "join" else number.masked_fill(tokens == 0, -1)
        frames = torch.arange(video.grid[0]) // self.segment_frames
        return self.fill_parts(video, number[frames], tokens[tokens > 0], query)

    @torch.no_grad()
    def part_scores(self, video: VideoTokens, query: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the (m,) fp64 scores of the parts and the (m,) int64 numbers of tokens that they have, on the CPU.

        Raises:
            InputError: given scores are not finite, or have the wrong shape.
        """
        part = torch.arange(video.grid[0]) // self.segment_frames
        sizes = torch.bincount(part) * video.per_frame
        scorer = self.__dict__["_scorer"]
        if isinstance(scorer, Tensor):
            scores = scorer
        else:
            with torch.autocast(video.features.device.type, enabled=False):
                scores = (scorer or self.relevance)(video, query)
        if not isinstance(scores, Tensor):
            raise InputError(f"{self.name}: the scoring function must return a tensor, got {type(scores).__name__}")
        scores = scores.detach().cpu().double()
        if scores.shape not in ((len(part),), (len(sizes),)) or not bool(torch.isfinite(scores).all()):
            raise InputError(
                f"{self.name} needs one finite score for each of the {len(part)} frames, or for each of the"
                f" {len(sizes)} parts, got shape {tuple(scores.shape)}"
            )
        if len(scores) > len(sizes):
            scores = scores.new_zeros(len(sizes)).scatter_reduce(0, part, scores, "amax", include_self=False)
        return scores, sizes

    def fill_parts(self, video: VideoTokens, part: Tensor, tokens: Tensor, query: Tensor | None) -> VideoTokens:
        """Fill parts of a dense video with the compressor ``fill``.

        Args:
            video: the video.
            part: (T,) int64 part of each frame, -1 for a frame that is dropped; a part is contiguous.
            tokens: (m,) int64 tokens of each part, at least 1.
            query: embeddings of the question, or None.
        """
        device = video.features.device
        if isinstance(self.filler, Selector) and type(self.filler).compress is Selector.compress:
            groups = part.to(device).repeat_interleave(video.per_frame) + 1
            quota = torch.cat([tokens.new_zeros(1), tokens]).to(device)
            kept = rank_in_group(self.filler.score(video, query), groups) < quota[groups]
            return video.keep(kept.nonzero()[:, 0])
        frames = (part >= 0).nonzero()[:, 0]
        first = frames[torch.searchsorted(part[frames], torch.arange(len(tokens)))]
        stop = first + torch.bincount(part[frames])
        parts = list(zip(first.tolist(), stop.tolist(), tokens.tolist(), strict=True))
        return self._merge_parts(video, parts, query) if self._merges else self._compress_parts(video, parts, query)

    @property
    def _merges(self) -> bool:
        return isinstance(self.filler, Merger) and type(self.filler).compress is Merger.compress

    def _merge_parts(self, video: VideoTokens, parts: list[tuple[int, int, int]], query: Tensor | None) -> VideoTokens:
        groups, count = torch.full_like(video.assign, -1), 0
        for start, stop, k in parts:
            own = cast(Merger, self.filler).assign(_frames(video, start, stop), k, query)
            groups[start * video.per_frame : stop * video.per_frame] = torch.where(own < 0, -1, own + count)
            count += k
        return merge(video, groups, count)

    def _compress_parts(
        self, video: VideoTokens, parts: list[tuple[int, int, int]], query: Tensor | None
    ) -> VideoTokens:
        assign, count, found = torch.full_like(video.assign, -1), 0, []
        for start, stop, k in parts:
            out = self.filler.compress(_frames(video, start, stop), k, query)
            out = out.tokens if isinstance(out, Compressed) else out
            first = start * video.per_frame
            assign[first : stop * video.per_frame] = torch.where(out.assign < 0, -1, out.assign + count)
            found.append((out.features, out.index + first, out.size))
            count += k
        features, index, size = (torch.cat(values) for values in zip(*found, strict=True))
        return replace(video, features=features, index=index, size=size, assign=assign)


@torch.no_grad()
def question_similarities(video: VideoTokens, query: Tensor) -> Tensor:
    """Return the (T,) highest cosine similarities of a token of each frame with a word of the question.

    They are scaled to 0 for the frame with the lowest and 1 for the one with the highest; all 0 if they are equal up to
    rounding errors.
    """
    words = normalize(rescale_if_extreme(query).float(), TINY)
    frames = [
        ((frame @ words.T).amax(1) / torch.linalg.vector_norm(frame, dim=-1).clamp_min(TINY)).amax()
        for frame in Frames(video, rescale=True)
    ]
    similarity = torch.stack(frames)
    low, high = similarity.aminmax()
    return (similarity - low) / (high - low) if bool(high - low > ROUNDING) else torch.zeros_like(similarity)


def power_weights(scores: Tensor, power: float, floor: float) -> Tensor:
    """Return (m,) weights: the shares of the scores to a power, plus an equal share that is ``floor`` times as large.

    Negative scores count as 0. If no score is positive, all weights are equal.
    """
    scores = scores.clamp_min(0)
    weights = (scores / scores.max().clamp_min(TINY)) ** power
    return weights / weights.sum().clamp_min(TINY) + floor / len(weights)


def _frames(video: VideoTokens, start: int, stop: int) -> VideoTokens:
    """Return the frames from start to stop of a dense video, as a video."""
    rows = slice(start * video.per_frame, stop * video.per_frame)
    ids = torch.arange(rows.stop - rows.start, device=video.index.device)
    return VideoTokens(
        features=video.features[rows],
        grid=(stop - start, *video.grid[1:]),
        index=ids,
        size=video.size[rows],
        assign=ids,
        times=video.times[start:stop],
        attention=None if video.attention is None else video.attention[rows],
    )
