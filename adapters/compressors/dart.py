"""DART: keep pivots and the tokens least similar to them (arXiv 2502.11494)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.max_min import copy_keys, first_copies
from framefold.adapters.ops.similarity import TINY, rescale_if_extreme
from framefold.adapters.reference.dart import dart_pivots, dart_rows, dart_share
from framefold.errors import ConfigError


class DART(Compressor):
    """Keeps pivots and, for each of them in turn, the tokens that duplicate it least. Training-free.

    Pivots are the tokens of the whole video with the largest L1 norm. Each pivot, that of the largest norm first, takes
    the tokens of lowest cosine similarity to it among those left. Tokens of the question can be pivots, too: they
    take tokens before the others do, but are not kept. The paper applies the rule inside the language model and ranks
    pivots by the norms of keys; here, both steps use the tokens that enter the language model.

    ``exact`` keeps k tokens for any k: at most k pivots, and the others in equal shares for each pivot, which differ by
    at most one. Ties go to the lower index. Similarities are fp32, and equal tokens have the same one.

    ``official`` counts as the release does: all pivots, and max(1, int(r N / all pivots)) tokens for each at a ratio r,
    so that it keeps more or fewer than r N tokens. The release lets pivots take in the order of a Python set of their
    places in the prompt; here, the order is that of ``exact``.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        pivots: number of pivots in the video. The paper has 4 in the video and 4 in the question.
        text_pivots: number of pivots in the question, at most its length; with them, the compressor needs a question.

    Raises:
        ConfigError: a parameter is out of range.
    """

    name = "dart"
    paper = "DART, arXiv 2502.11494"
    keeps = "the longest tokens, and those least similar to each of them"
    cost = "one norm per token and its similarity to each pivot: pivots N D"
    licence = "none"
    deviations = (
        "the shares of the pivots add up to the budget; pivots take tokens in the order of their norms; compares "
        "features instead of keys and hidden states of the language model"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        pivots: int = 8,
        text_pivots: int = 0,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"dart: variant must be 'exact' or 'official', got {variant!r}")
        if pivots < 1 or text_pivots < 0:
            raise ConfigError(f"dart: out of range: {pivots=}, {text_pivots=}")
        self.variant, self.pivots, self.text_pivots = variant, pivots, text_pivots
        self.exact_budget = variant == "exact"
        self.query_aware = text_pivots > 0  # type: ignore[misc]

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return video.keep(self.select(video, k, query))

    @torch.no_grad()
    def select(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        """Return the rows to keep, ascending."""
        with torch.autocast(video.features.device.type, enabled=False):
            x = rescale_if_extreme(video.features.detach()[None])[0].float()
            text = x[:0]
            if query is not None and self.text_pivots:
                text = rescale_if_extreme(query.detach()[None])[0].float()
            if self.variant == "official":
                return self._official(x, text, k)
            image = longest(x, min(self.pivots, k))
            pivots = torch.cat([text[longest(text, self.text_pivots)], x[image]])
            return least_similar(x, pivots, image, k)

    def _official(self, x: Tensor, text: Tensor, k: int) -> Tensor:
        ratio = self.budget_ratio(k, len(x))
        every = torch.cat([x, text])
        image, after = dart_pivots(every[None], 0, len(x), self.pivots, self.text_pivots)
        each = dart_share(len(x), ratio, self.pivots + self.text_pivots)
        return dart_rows(every, 0, len(x), image.tolist(), [*after.tolist(), *image.tolist()], each)


def longest(x: Tensor, count: int) -> Tensor:
    """Return the rows of the largest L1 norm, at most ``count``, largest first; ties go to the lower row."""
    size = torch.linalg.vector_norm(x, ord=1, dim=-1)
    return torch.sort(size, descending=True, stable=True).indices[:count]


def least_similar(x: Tensor, pivots: Tensor, kept: Tensor, k: int) -> Tensor:
    """Return k rows, ascending: some that are kept anyway, and those least similar to each pivot in turn.

    Args:
        x: (N, D) fp32 tokens.
        pivots: (m, D) pivots, in the order in which they take tokens.
        kept: rows that are kept anyway, at most k.
        k: number of rows.
    """
    unit = pivots / torch.linalg.vector_norm(pivots, dim=-1, keepdim=True).clamp_min(TINY)
    similarity = (x @ unit.T) / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(TINY)
    similarity = similarity[first_copies(copy_keys(x))]
    free = torch.ones(len(x), dtype=torch.bool, device=x.device).index_fill_(0, kept, False)
    rest, count = k - len(kept), len(pivots)
    for i in range(count):
        share = (i + 1) * rest // count - i * rest // count
        taken = torch.sort(torch.where(free, similarity[:, i], torch.inf), stable=True).indices[:share]
        free[taken] = False
    return (~free).nonzero()[:, 0]
