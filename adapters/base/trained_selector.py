"""Base class of selectors that learn to correct the scores of a training-free one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from framefold.adapters.core.budget import Budget
from framefold.adapters.core.registry import compressor_class, create_compressor
from framefold.adapters.core.sizes import MAX_SIZE
from framefold.adapters.core.tokens import VideoTokens
from framefold.errors import ConfigError

from .selector import Selector


class TrainedSelector(Selector):
    """Keeps the tokens with the highest sum of a training-free score and a learned one. Implement :meth:`learned`.

    The learned scores are 0 before training, so that a fresh one equals its counterpart bit by bit, unless it also
    keeps tokens for coverage: of k tokens, round(coverage * k) are evenly spaced among those that are not selected by
    score. The unit of the learned scores is the standard deviation of the scores of the counterpart in the video.

    Args:
        budget: retention ratio or tokens per video.
        counterpart: registered name of the training-free selector that it starts from.
        inner: width of what is learned.
        coverage: fraction of the budget for evenly spaced tokens, below 1.
        dim: token width D; None: that of the first video.

    Raises:
        UnknownCompressorError: ``counterpart`` is not registered.
        ConfigError: ``counterpart`` gives tokens no scores, or a parameter is out of range.
    """

    trainable: ClassVar[bool] = True
    returns_scores = True
    counterpart = "mean_similarity"

    _first: Selector

    def __init__(self, budget: Budget, counterpart: str, inner: int, coverage: float, dim: int | None) -> None:
        super().__init__(budget)
        first = create_compressor(compressor_class(counterpart), 1.0, {})
        if not isinstance(first, Selector) or first.trainable or first.query_aware:
            raise ConfigError(
                f"{self.name}: {counterpart} gives tokens no scores, must be trained or needs the question: set"
                " counterpart to mean_similarity, longest or attention"
            )
        if not 1 <= inner <= MAX_SIZE or dim is not None and not 1 <= dim <= MAX_SIZE:
            raise ConfigError(f"{self.name}: inner and dim must be 1 to {MAX_SIZE}, got {inner} and {dim}")
        if not 0 <= coverage < 1:
            raise ConfigError(f"{self.name}: coverage must be at least 0 and below 1, got {coverage}")
        self.counterpart, self.inner, self.coverage, self.dim = counterpart, inner, coverage, dim
        self.__dict__["_first"] = first  # not a submodule: it has nothing to save
        self.needs_attention = first.needs_attention

    @classmethod
    def counterpart_of(cls, params: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        return params.get("counterpart", cls.counterpart), {}

    def learned(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        """Return the (N,) learned scores of the tokens of a dense video, 0 before training."""
        raise NotImplementedError(f"{type(self).__name__} must implement learned()")

    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        start: Tensor = self._first.score(video, None).detach()
        return start + deviation(start) * self.learned(video, query).to(start.dtype)

    def by_score(self, k: int) -> int:
        """Return how many of k tokens are selected by score."""
        return max(1, k - round(self.coverage * k))

    def keep(self, video: VideoTokens, rows: Tensor) -> VideoTokens:
        """Return the given rows of a video, with gradients of zero for all parameters."""
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            zero = self.zero_times_parameters().to(video.features.dtype)
            video = VideoTokens(**{**video.__dict__, "features": video.features + zero})
        return video.keep(rows)


def deviation(scores: Tensor) -> Tensor:
    """Return the standard deviation of (N,) scores, a scalar; 1 if they are all equal."""
    wide = scores.double()
    found = (wide - wide.mean()).square().mean().sqrt().to(scores.dtype)
    return torch.where((found > 0) & found.isfinite(), found, torch.ones_like(found))
