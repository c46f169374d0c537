"""EVS: keep the tokens that differ from the previous frame (arXiv 2510.14624)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.frame_pruner import FramePruner, engine_token_count
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import rank_in_frame, select_by_stage
from framefold.adapters.ops.similarity import Frames, normalize, rescale_if_extreme
from framefold.adapters.reference.dtd import dtd_by_features
from framefold.errors import ConfigError

FIRST_FRAME_SCORE = 255.0  # above every other score: 1 - cosine is at most 2

FIRST_FRAME_SHARE = 0.25  # largest part of an exact budget that is spent on frame 0


class EVS(FramePruner):
    """Keeps the first frame as reference, then the tokens that changed most since the previous frame. Training-free.

    The change of token p in frame t is 1 - cos(x[t, p], x[t-1, p]); the previous frame is used even if its token was
    dropped. This is the variant on embeddings that serving engines run; the text of the paper describes one on pixels.

    ``official`` keeps max(P, trunc(N * (1 - q))) tokens: all of frame 0, then the most changed ones. Ties go to the
    lower index. At low budgets only frame 0 is kept, and frames without change are dropped at every budget.

    ``exact`` keeps k tokens for any k:

    1. One token per frame: its most changed token, and for frame 0 the position that changes most over the whole video.
       If k < T, that of frame 0 and those of the frames with the largest changes.
    2. Further tokens of frame 0, up to a quarter of the budget or the whole frame: the positions that change most,
       because a reference is most useful where there is something to compare with it.
    3. The most changed of the remaining tokens of all frames; the rest of frame 0 counts as unchanged.

    So every frame keeps a token if k >= T. Ties go to the lower index. Of 868 hard questions, the embedded host
    answered as many as with the engines' order truncated to k tokens (at 25 and 10 % of the tokens), or 5 and 9 points
    more (at 5 and 2 %). Change is computed in fp32 as half the squared distance of unit vectors, which is the same
    number without cancellation: it is exactly 0 for a token that stays the same and for a zero vector; the engines
    count a zero vector as changed.

    ``threshold`` is the differential token drop (DTD) of TimeChat-Online (arXiv 2504.17343): frame 0, and all tokens
    whose cosine similarity with the previous frame is at most ``threshold``. The budget is ignored.

    Args:
        budget: retention ratio or tokens per video. ``official`` accepts only a ratio r and passes q = 1 - r, rounded
            to 12 decimals, to the engines' rules: a budget of 0.07 is exactly what users of the engines write as 0.93.
        variant: "exact", "official" or "threshold", see above.
        native: compute ``official`` in the dtype of the features, as served models do, instead of fp32.
        threshold: similarity above which ``threshold`` drops a token, in [-1, 1]; 0.5 in the scripts of its release.
        drop_share: fraction of each frame after frame 0 that ``threshold`` drops instead, the least changed tokens, in
            [0, 1]; None: use ``threshold``.

    Raises:
        ConfigError: an unknown variant, ``native`` without ``official``, or a parameter is out of range.
        BudgetError: a number of tokens for ``official``.
    """

    name = "evs"
    paper = "EVS, arXiv 2510.14624"
    keeps = "tokens that change from frame to frame, pruned as in serving engines"
    cost = "one cosine similarity per token, and a sort"
    licence = "Apache-2.0"
    deviations = (
        "divides the budget between frame 0 and the changed tokens, and keeps a token of every frame if k >= "
        "T; the engines keep all of frame 0 first"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official", "threshold"] = "exact",
        native: bool = False,
        threshold: float = 0.5,
        drop_share: float | None = None,
    ) -> None:
        super().__init__(budget, variant="exact" if variant == "threshold" else variant, native=native)
        if not (-1 <= threshold <= 1 and 0 <= (drop_share or 0) <= 1):
            raise ConfigError(f"evs: out of range: {threshold=} (-1 to 1), {drop_share=} (0 to 1)")
        self.variant, self.threshold, self.drop_share = variant, threshold, drop_share
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if self.variant != "threshold":
            return super().compress(video, k, query)
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            x = rescale_if_extreme(video.as_grid().flatten(1, 2))
            kept = dtd_by_features(x, self.threshold, self.drop_share)
        return video.keep(kept.reshape(-1).nonzero()[:, 0])

    def select_exact(self, video: VideoTokens, k: int) -> Tensor:
        change = changes(video)
        reference = rank_in_frame(-change.sum(0, keepdim=True))[0]  # (P,) order in which tokens of frame 0 are kept
        stage = torch.where(rank_in_frame(-change) == 0, 0, 2)
        first = reference < round(FIRST_FRAME_SHARE * k)
        stage[0] = torch.where(reference == 0, 0, torch.where(first, 1, 2))
        change[0] = torch.where(stage[0] < 2, FIRST_FRAME_SCORE - reference, 0)
        return select_by_stage(stage, -change, k)

    def select_official(self, video: VideoTokens, q: float) -> Tensor:
        return evs_official_rows(dissimilarities(video, self.native), q)


def evs_official_rows(score: Tensor, q: float) -> Tensor:
    """Return the rows, ascending, that the engines keep at pruning rate q: those with the highest (T, P) scores."""
    order = torch.sort(score.reshape(-1), descending=True, stable=True).indices
    return order[: engine_token_count(score.numel(), q, at_least=score.shape[1])].sort().values


def dissimilarities(video: VideoTokens, native: bool = False) -> Tensor:
    """Return the engines' (T, P) scores: 1 - cosine similarity with the previous frame.

    Args:
        video: a dense video.
        native: compute in the dtype of the features instead of fp32.
    """
    frames = Frames(video, native)
    score = torch.full(frames.video.shape[:2], FIRST_FRAME_SCORE, dtype=frames.dtype, device=frames.video.device)
    previous = None
    for t, frame in enumerate(frames):
        unit = normalize(frame, 1e-8)
        if previous is not None:
            score[t] = 1 - (unit * previous).sum(-1)
        previous = unit
    return score


def changes(video: VideoTokens) -> Tensor:
    """Return (T, P) fp32 half squared distances of each normalized token to the previous frame; 0 for frame 0."""
    frames = Frames(video, rescale=True)
    change = torch.zeros(frames.video.shape[:2], device=frames.video.device)
    previous = None
    for t, frame in enumerate(frames):
        unit = normalize(frame, 1e-15)
        if previous is not None:
            change[t] = torch.linalg.vector_norm(unit - previous, dim=-1).square() / 2
        previous = unit
    return change
