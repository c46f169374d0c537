"""QuoTA: frames relevant to the question get more tokens (arXiv 2503.08689)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from framefold.adapters.base.frame_budget import FrameBudget, power_weights, question_similarities
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import share
from framefold.adapters.ops.partition import even_positions
from framefold.adapters.ops.segments import segment_mean
from framefold.adapters.reference.quota import frame_tokens, resize_bilinear
from framefold.errors import ConfigError


class QuoTA(FrameBudget):
    """Gives frames tokens in proportion to the square of their relevance to the question. Training-free.

    In the paper, a second video-LLM is asked for each frame whether it contains the objects of the question, and the
    probability of "yes" is its relevance. Pass such scores to :meth:`score_with`. Without them, the relevance is the
    highest cosine similarity of a token of the frame with a word of the question, scaled to 0 ... 1 over the video.

    ``exact``: a frame gets tokens in proportion to relevance^power, plus a share that is equal for all frames; a frame
    takes at most all its tokens, and what it cannot take is divided among the others. Remainders of the division go to
    the largest ones, ties to the earlier frame. The tokens of a frame are means of near-square rectangles, or the
    result of ``fill``. A frame without tokens is dropped.

    ``official`` rounds down the share of each frame, and down again to a x a or (a + 1) x a tokens, to which the frame
    is resized bilinearly: version 1 of the release, which it uses, see
    :mod:`framefold.adapters.reference.quota`. So it returns less than the budget. Where the release makes more tokens
    of a frame than it has, those at the same place are united by their mean. If no frame has a whole token, the most
    relevant one gets one, where the release has none.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release; only ``exact`` has the following parameters.
        power: exponent of the relevance; 0 gives all frames the same.
        floor: total of the equal shares relative to that of the relevance.
        fill: see :class:`~framefold.adapters.base.frame_budget.FrameBudget`, also for the following ones.
        fill_params: parameters of ``fill``.
        segment_frames: consecutive frames that share a number of tokens.
        empty: "join" or "drop" frames without tokens.

    Raises:
        UnknownCompressorError: ``fill`` is not registered.
        ConfigError: ``fill`` has no exact budget or must be trained, or a parameter is out of range.
    """

    name = "quota"
    paper = "QuoTA, arXiv 2503.08689"
    keeps = "means of rectangles, more of frames that are relevant to the question"
    cost = "one product of each token with the words of the question, and the cost of fill"
    licence = "none"
    deviations = (
        "gives a frame its share, at most the tokens that it has, without rounding to near-squares; means instead of "
        "interpolation; measures relevance by the similarity with the question unless scores are given"
    )
    query_aware: ClassVar[bool] = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        power: float = 2.0,
        floor: float = 0.0,
        fill: str = "pool",
        fill_params: dict | None = None,
        segment_frames: int = 1,
        empty: Literal["join", "drop"] = "drop",
    ) -> None:
        super().__init__(budget, fill=fill, fill_params=fill_params, segment_frames=segment_frames, empty=empty)
        if variant not in ("exact", "official"):
            raise ConfigError(f"quota: variant must be 'exact' or 'official', got {variant!r}")
        if power < 0 or floor < 0:
            raise ConfigError(f"quota: power and floor must be at least 0, got {power=}, {floor=}")
        changed = (power, floor, fill, fill_params, segment_frames, empty) != (2, 0, "pool", None, 1, "drop")
        if variant == "official" and changed:
            raise ConfigError("quota: variant='official' has no other parameters")
        self.variant, self.power, self.floor = variant, power, floor
        self.exact_budget = variant == "exact"

    def relevance(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        assert query is not None  # query_aware
        return question_similarities(video, query)

    def allocate(self, scores: Tensor, k: int, sizes: Tensor) -> Tensor:
        return share(k, power_weights(scores, self.power, self.floor), sizes)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if self.exact_budget:
            return super().compress(video, k, query)
        scores, _ = self.part_scores(video, query)
        weights = power_weights(scores, 2, 0 if bool((scores > 0).any()) else 1)  # equal if nothing is relevant
        tokens = frame_tokens(weights.tolist(), k, "v1", video.per_frame)
        if not any(tokens):
            tokens[int(weights.argmax())] = 1
        return _resize_frames(video, tokens)


def _resize_frames(video: VideoTokens, tokens: list[int]) -> VideoTokens:
    """Resize each frame to at most its number of tokens, as the release does, and drop frames without tokens."""
    _, height, width = video.grid
    assign, count, features, index = torch.full_like(video.assign, -1), 0, [], []
    for t, (frame, own) in enumerate(zip(video.as_grid(), tokens, strict=True)):
        if own == 0:
            continue
        resized = resize_bilinear(frame, own)
        rows, columns = resized.shape[:2]
        place = (even_positions(height, rows)[:, None] * width + even_positions(width, columns)).reshape(-1)
        anchors, same = torch.unique(place.to(assign.device), return_inverse=True)  # more rows than H share places
        features.append(segment_mean(resized.flatten(0, 1), torch.ones_like(same), same, len(anchors)))
        index.append(anchors + t * video.per_frame)
        cell = _nearest(height, rows)[:, None] * min(columns, width) + _nearest(width, columns)
        assign[t * video.per_frame : (t + 1) * video.per_frame] = cell.reshape(-1).to(assign.device) + count
        count += len(anchors)
    return replace(
        video,
        features=torch.cat(features).to(video.features.dtype),
        index=torch.cat(index),
        size=torch.bincount(assign + 1, weights=video.size, minlength=count + 1)[1:].long(),
        assign=assign,
    )


def _nearest(side: int, resized: int) -> Tensor:
    """Return the (side,) position after resizing that is nearest to each position."""
    return even_positions(resized, side) if resized < side else torch.arange(side)
