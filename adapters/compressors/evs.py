"""EVS: keeps the tokens that differ from their predecessor in time (arXiv 2510.14624)."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.frame_pruner import FramePruner
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import rank_in_frame, select
from framefold.adapters.ops.similarity import Frames, normalize

FIRST = 255.0  # score of frame 0; the greatest dissimilarity of cosines is 2

FIRST_SHARE = 0.25  # of an exact budget, at most, is for frame 0


class EVS(FramePruner):
    """Keeps the first frame as reference, then the tokens that changed most since the previous frame. Training-free.

    The change of a token is 1 - cos(x[t, p], x[t-1, p]), with the previous frame even where that token was dropped.
    This is the form on embeddings that serving engines run; the paper's text describes one on pixels.

    ``official`` keeps max(P, trunc(N * (1 - q))) tokens: all of frame 0, then the most changed, ties to the lower one.
    At low budgets that is frame 0 alone, and frames without change vanish at any.

    ``exact`` keeps k tokens, whatever k:

    1. One token of each frame: the most changed one, and of frame 0 the place that changes most over the whole video.
       Where k < T, that of frame 0 and those of the frames with the sharpest changes.
    2. More of frame 0, until it has a quarter of the budget or is whole: the places that change most, since a reference
       is worth most where there is something to compare.
    3. The most changed tokens that are left, wherever they are; what is left of frame 0 counts as unchanged.

    So no frame vanishes where k >= T. Ties go to the lower index. Of 868 hard questions, the embedded host answered as
    many as with the engines' order cut at k (25 and 10 % of the tokens) or 5 and 9 points more (5 and 2 %). Change is
    measured in fp32 as half the squared distance of unit vectors, the same number without cancellation: a token that
    stays the same has exactly 0, a zero vector too, while the engines call that one changed.
    """

    name = "evs"

    def exact(self, video: VideoTokens, k: int) -> Tensor:
        change = changes(video)
        reference = rank_in_frame(-change.sum(0, keepdim=True))[0]  # (P,) order in which frame 0's places are taken
        stage = torch.where(rank_in_frame(-change) == 0, 0, 2)
        first = reference < round(FIRST_SHARE * k)
        stage[0] = torch.where(reference == 0, 0, torch.where(first, 1, 2))
        change[0] = torch.where(stage[0] < 2, FIRST - reference, 0)
        return select(stage, -change, k)

    def official(self, video: VideoTokens, q: float) -> Tensor:
        return evs_official_rows(dissimilarities(video, self.native), q)


def evs_official_count(t: int, p: int, q: float) -> int:
    """Tokens that the engines keep of t frames of p tokens at pruning rate q; the order of operations matters."""
    return max(p, int(t * p * (1 - q)))


def evs_official_rows(score: Tensor, q: float) -> Tensor:
    """Rows, ascending, of the highest scores (T, P) at the engines' count; ties to the lower row."""
    order = torch.sort(score.reshape(-1), descending=True, stable=True).indices
    t, p = score.shape
    return order[: evs_official_count(t, p, q)].sort().values


def dissimilarities(video: VideoTokens, native: bool = False) -> Tensor:
    """(T, P) score of the engines: 1 - cosine similarity with the previous frame, in fp32 or the features' dtype."""
    frames = Frames(video, native)
    score = torch.full(frames.video.shape[:2], FIRST, dtype=frames.dtype, device=frames.video.device)
    previous = None
    for t, frame in enumerate(frames):
        unit = normalize(frame, 1e-8)
        if previous is not None:
            score[t] = 1 - (unit * previous).sum(-1)
        previous = unit
    return score


def changes(video: VideoTokens) -> Tensor:
    """(T, P) fp32 half the squared distance of each unit token to its predecessor; frame 0 has 0."""
    frames = Frames(video, rescale=True)
    change = torch.zeros(frames.video.shape[:2], device=frames.video.device)
    previous = None
    for t, frame in enumerate(frames):
        unit = normalize(frame, 1e-15)
        if previous is not None:
            change[t] = torch.linalg.vector_norm(unit - previous, dim=-1).square() / 2
        previous = unit
    return change
