"""VisionSelector: a linear scorer, trained through a differentiable top-k (arXiv 2510.16598)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framefold.adapters.base.trained_selector import TrainedSelector, deviation
from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.adapters.core.sizes import MAX_SIZE
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.context_network import ContextNetwork, check_context, unit_frames
from framefold.adapters.layers.soft_threshold import soft_threshold
from framefold.adapters.ops.selection import exact_topk, top_and_even
from framefold.errors import ConfigError

MOST_ENTERING = 1000  # times the budget


class VisionSelector(TrainedSelector):
    """Keeps the tokens whose product with a learned function of the mean token is highest.

    The learned score of a token x is <query(x), key(mean)> / sqrt(inner), linear in x. It is added to the scores of
    ``counterpart``, to which a fresh selector is equal bit by bit. With ``context``, a small network that also reads
    the surroundings of the token adds a third score. Of k tokens, round(coverage * k) are evenly spaced among those
    that are not selected by score.

    During training, ``entering_factor`` times as many tokens enter the language model. Each has a weight m between 0
    and 1, the sigmoid of its score minus the threshold at which the weights of all tokens have the sum k, in units of
    ``tau``. The logarithm of m is added to the logits of the attention to the token in every layer
    (``Compressed.key_bias``), so that m = 0 is a dropped token, and the answer loss says what to keep. Multiplied by
    the token itself, as in the release, m would be cancelled by the norms of the host. The loss "bce" moves m towards 0
    and 1. The scores are returned, too, so that the losses of scores can train them.

    Args:
        budget: retention ratio or tokens per video.
        counterpart: registered name of the training-free selector that it starts from.
        inner: width of the scorer.
        tau: temperature of the weights, in standard deviations of the scores of ``counterpart``.
        entering_factor: how many times the budget enters the language model during training.
        bce: weight of the loss "bce"; without it (0), nothing is returned.
        context: widths of the layers of the network that reads the surroundings, see
            :class:`~framefold.adapters.layers.context_network.ContextNetwork`; empty: none, as in the paper.
        coverage: fraction of the budget for evenly spaced tokens.
        dim: token width D; None: that of the first video.

    Raises:
        UnknownCompressorError, ConfigError: a parameter is out of range, or ``counterpart`` gives tokens no scores.
        InputError: the width of the video is not that of the weights.
    """

    name = "vision_selector"
    paper = "VisionSelector, arXiv 2510.16598"
    keeps = "tokens that a learned linear score ranks highest"
    cost = "two passes over all tokens, and a sort"
    licence = "none"
    deviations = (
        "starts at a training-free score; weights of the attention to tokens instead of weighted tokens in training;"
        " exact budgets, which the release rounds down"
    )
    biases_keys = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        counterpart: str = "mean_similarity",
        inner: int = 64,
        tau: float = 0.5,
        entering_factor: float = 4.0,
        bce: float = 0.1,
        context: tuple[int, ...] = (),
        coverage: float = 0.0,
        dim: int | None = None,
    ) -> None:
        super().__init__(budget, counterpart, inner, coverage, dim)
        possible = 1 / MAX_SIZE <= tau <= MAX_SIZE and 1 <= entering_factor <= MOST_ENTERING and 0 <= bce <= MAX_SIZE
        if not possible:  # also if one is NaN
            raise ConfigError(
                f"vision_selector: tau must be {1 / MAX_SIZE:g} to {MAX_SIZE}, entering_factor 1 to {MOST_ENTERING} and"
                f" bce 0 to {MAX_SIZE}, got {tau}, {entering_factor} and {bce}"
            )
        check_context(self.name, context)
        self.tau, self.entering_factor, self.bce, self.context = tau, entering_factor, bce, context
        self.query: nn.Linear | None = None
        self.surroundings: ContextNetwork | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.query is not None:
            return
        self.query = nn.Linear(width, self.inner, bias=False)  # a bias would add the same to the scores of all tokens
        self.key = nn.Linear(width, self.inner)
        for parameter in self.key.parameters():
            nn.init.zeros_(parameter)
        self.surroundings = ContextNetwork(width, self.context, 1) if self.context else None
        self.to(device)

    def entering(self, k: int, n: int, per_frame: int = 1) -> int:
        return min(n, round(self.entering_factor * k)) if self.training else k

    def learned(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        assert self.query is not None  # created by forward()
        frames = unit_frames(video.features.to(torch.promote_types(self.query.weight.dtype, torch.float32)), video.grid)
        x = frames.flatten(0, 2)
        weight, bias = self.key.weight.to(x.dtype), self.key.bias.to(x.dtype)
        mean_key = (weight * x.mean(0)).sum(-1) + bias  # no matrix products, which autocast computes in bf16
        direction = (self.query.weight.to(x.dtype) * mean_key[:, None]).sum(0)
        linear = (x * direction).sum(-1) / self.inner**0.5
        return linear if self.surroundings is None else linear + self.surroundings(frames)[:, 0]

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Compressed:
        scores = self.score(video, query)
        rows, by_score = top_and_even(scores.detach(), self.by_score(k), k)
        tokens = self.keep(video, rows)
        if not self.training:
            return Compressed(tokens)
        margin = self.margins(scores, self.by_score(budget_tokens(self.budget, len(video))), video)
        losses = {} if not self.bce else {"bce": self.bce * self._hardness(scores, margin)}
        bias = F.logsigmoid(margin)[rows].float()
        return Compressed(tokens, losses, scores, key_bias=torch.where(by_score, bias, torch.zeros_like(bias)))

    def margins(self, scores: Tensor, k: int, video: VideoTokens) -> Tensor:
        """Return the (N,) scores minus the threshold, in units of tau; the sum of their sigmoids is k."""
        if k >= len(scores):
            return 0.0 * scores + torch.finfo(torch.float32).max ** 0.5  # all weights are 1
        unit = deviation(self._first.score(video, None))
        values = (scores - scores.detach().mean()) / (unit * self.tau)
        return values - soft_threshold(values, values.new_tensor(float(k)), 1.0)

    def _hardness(self, scores: Tensor, margin: Tensor) -> Tensor:
        """Return the cross-entropy of the weights against the highest scores, of which there are as many."""
        count = round(float(torch.sigmoid(margin.detach()).sum()))
        hard = torch.zeros_like(margin).index_fill(0, exact_topk(scores.detach(), count), 1.0)
        return F.binary_cross_entropy_with_logits(margin, hard).float()
