"""Tempo's adaptive token allocation: segments relevant to the question get more tokens (arXiv 2604.08120)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from framefold.adapters.base.frame_budget import FrameBudget, question_similarities
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import share
from framefold.adapters.reference.tempo_ata import SAME, allocate_as_released
from framefold.errors import ConfigError


class TempoATA(FrameBudget):
    """Gives segments of eight frames tokens in proportion to their relevance, between two limits. Training-free.

    In the paper, a small vision-language model compresses each segment to 128 ordered tokens and rates its relevance
    to the question, and the first tokens of each segment are kept. Its allocation works with any scores: pass them
    to :meth:`score_with`. Without them, the relevance is the highest cosine similarity of a token of the segment with a
    word of the question. The tokens of a segment are means over its frames, or the result of ``fill``.

    ``exact``: each segment gets ``min_tokens``, or k // m of m segments if the budget does not suffice for that. The
    rest is divided in proportion to the relevance above that of the least relevant segment, up to ``max_tokens`` for a
    segment; what a segment cannot take goes to the others. If all scores are equal, so are the numbers of tokens. A
    budget of more than ``max_tokens`` for each segment has no limit but the tokens of a segment. Remainders of the
    division go to the largest ones, ties to the earlier segment.

    ``official`` is the allocation of the release, whose sum may differ from the budget, see
    :func:`~framefold.adapters.reference.tempo_ata.allocate_as_released`; a segment keeps at most the tokens that it
    has. If no segment gets a token, the most relevant one gets one.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        min_tokens: tokens of the least relevant segment.
        max_tokens: tokens of the most relevant segment.
        fill: see :class:`~framefold.adapters.base.frame_budget.FrameBudget`, also for the following ones.
        fill_params: parameters of ``fill``.
        segment_frames: consecutive frames of a segment.
        empty: "join" or "drop" frames without tokens; only budgets of less than m tokens have any.

    Raises:
        UnknownCompressorError: ``fill`` is not registered.
        ConfigError: ``fill`` has no exact budget or must be trained, or a parameter is out of range.
    """

    name = "tempo_ata"
    paper = "Tempo, arXiv 2604.08120"
    keeps = "means over space and time, more of segments that are relevant to the question"
    cost = "one product of each token with the words of the question, and the cost of fill"
    licence = "Apache-2.0"
    deviations = (
        "spends the whole budget instead of what the limits leave of it; fills segments with means instead of the "
        "first tokens of a trained compressor, and scores them by their similarity with the question unless scores "
        "are given"
    )
    query_aware: ClassVar[bool] = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        min_tokens: int = 4,
        max_tokens: int = 128,
        fill: str = "pool",
        fill_params: dict | None = None,
        segment_frames: int = 8,
        empty: Literal["join", "drop"] = "drop",
    ) -> None:
        super().__init__(budget, fill=fill, fill_params=fill_params, segment_frames=segment_frames, empty=empty)
        if variant not in ("exact", "official"):
            raise ConfigError(f"tempo_ata: variant must be 'exact' or 'official', got {variant!r}")
        if not 0 <= min_tokens <= max_tokens or max_tokens < 1:
            raise ConfigError(f"tempo_ata: the limits must be 0 <= min <= max, got {min_tokens=}, {max_tokens=}")
        self.variant, self.min_tokens, self.max_tokens = variant, min_tokens, max_tokens
        self.exact_budget = variant == "exact"

    def relevance(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        assert query is not None  # query_aware
        return question_similarities(video, query)

    def allocate(self, scores: Tensor, k: int, sizes: Tensor) -> Tensor:
        if not self.exact_budget:
            return self._allocate_as_released(scores, k, sizes)
        most = sizes.clamp(max=self.max_tokens)
        most = most if int(most.sum()) >= k else sizes
        least = most.clamp(max=min(self.min_tokens, k // len(sizes)))
        low, high = scores.aminmax()
        relative = scores - low if bool(high - low >= SAME) else torch.zeros_like(scores)
        return least + share(k - int(least.sum()), relative, most - least)

    def _allocate_as_released(self, scores: Tensor, k: int, sizes: Tensor) -> Tensor:
        released = allocate_as_released(scores.tolist(), k, self.min_tokens, self.max_tokens)
        tokens = torch.tensor(released).minimum(sizes)
        if not bool(tokens.any()):
            tokens[int(scores.argmax())] = 1
        return tokens
