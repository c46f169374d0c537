"""CDPruner: tokens that differ from each other and fit the question (arXiv 2506.10967)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import even_counts
from framefold.adapters.ops.similarity import TINY, normalize, rescale_if_extreme
from framefold.adapters.reference.cdpruner import released_picks, released_relevance
from framefold.errors import ConfigError

from .dpp import determinant_picks


class CDPruner(Compressor):
    """Keeps tokens by a determinantal point process whose qualities are their relevance to the question. Training-free.

    The relevance of a token is the mean cosine similarity with the words of the question, scaled from 0 (the least of
    the video) to 1. The greedy choice is that of
    :class:`~framefold.adapters.compressors.dpp.DPP`. All tokens of the video compete; with ``scope="frame"``, frames
    keep equal numbers of tokens, which are chosen within them. The release compares the embeddings of CLIP's two
    towers. Here, tokens are compared with the word embeddings of the language model, whose similarity says little if
    the projector was not trained for it. As in the release, the relevance falls with the similarity, unless ``sign`` is
    1. Ties go to the lower index.

    ``official`` chooses round(k / T) tokens of each frame separately, at least one, without a ridge. As in the release,
    the relevance falls with the similarity, and tokens that are chosen twice are lost.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        scope: "frame" or "video", see above; only for ``exact``.
        sign: 1 if relevance grows with the similarity, -1 if it falls; only for ``exact``.
        ridge: see :class:`~framefold.adapters.compressors.dpp.DPP`; only for ``exact``.

    Raises:
        ConfigError: a parameter is out of range.
    """

    name = "cdpruner"
    paper = "CDPruner, arXiv 2506.10967"
    keeps = "tokens that fit the question and whose directions differ from each other"
    cost = "k N D products, most of them in blocks of picks, and k^2 D"
    growth = "quadratic"
    licence = "Apache-2.0"
    deviations = (
        "chooses from the whole video instead of each frame, and no token twice; measures relevance by word embeddings "
        "instead of CLIP"
    )
    query_aware: ClassVar[bool] = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        scope: Literal["frame", "video"] = "video",
        sign: Literal[1, -1] = -1,
        ridge: float = 1e-3,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official") or scope not in ("frame", "video"):
            raise ConfigError(f"cdpruner: unknown option in {variant=}, {scope=}")
        if sign not in (1, -1) or not 1e-5 <= ridge <= 1:
            raise ConfigError(f"cdpruner: sign must be 1 or -1, and ridge in [1e-5, 1], got {sign} and {ridge}")
        self.variant, self.scope, self.sign, self.ridge = variant, scope, sign, ridge
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if k >= len(video):
            return video
        assert query is not None
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            x, words = (rescale_if_extreme(one[None])[0].float() for one in (video.features, query))
            if self.exact_budget:
                unit = normalize(x, TINY)
                rows = self._rows(unit, relevance(unit, words, self.sign), k, video.grid[0])
            else:
                rows = _official_rows(x.unflatten(0, (video.grid[0], -1)), words, k)
        return video.keep(rows.sort().values)

    def _rows(self, unit: Tensor, fit: Tensor, k: int, frames: int) -> Tensor:
        """Return the k rows to keep of (N, D) unit vectors of a relevance (N,)."""
        if self.scope == "video":
            return determinant_picks(unit, fit, k, self.ridge)
        counts, per_frame = even_counts(k, frames).tolist(), len(unit) // frames
        parts = zip(unit.split(per_frame), fit.split(per_frame), counts, strict=True)
        picks = [determinant_picks(*part, self.ridge) + i * per_frame for i, part in enumerate(parts) if part[2]]
        return torch.cat(picks)


def relevance(unit: Tensor, words: Tensor, sign: int) -> Tensor:
    """Return the (N,) relevance of (N, D) unit vectors to the (L, D) words of a question, from 0 to 1.

    It is 1 for every token if all are equally similar.
    """
    similarity = sign * (unit @ normalize(words, TINY).mean(0))
    least, largest = torch.aminmax(similarity)
    spread = largest - least
    return (similarity - least) / spread if spread > 0 else torch.ones_like(similarity)


def _official_rows(frames: Tensor, words: Tensor, k: int) -> Tensor:
    """Return the distinct rows that the release chooses of (T, P, D) frames."""
    t, per_frame = frames.shape[:2]
    count = min(per_frame, max(1, round(k / t)))
    fit = released_relevance(frames, words)
    picks = [i * per_frame + released_picks(frames[i], fit[i], count) for i in range(t)]
    return torch.cat(picks).unique()
