"""DyCoke, stage 1: drop tokens that stay the same within groups of four frames (arXiv 2411.15024)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import exact_topk
from framefold.adapters.ops.similarity import TINY, normalize, rescale_if_extreme
from framefold.adapters.reference.dycoke import released_rows
from framefold.errors import ConfigError

GROUP = 4  # frames


class DyCoke(Compressor):
    """Drops the tokens most similar to the same place of a reference frame in their group of four. Training-free.

    Frames 1 and 3 of a group are compared with frames 0 and 2, and frame 2 with frame 0. Tokens are dropped, not
    merged. This is the temporal merging of the paper; its pruning of the key-value cache during decoding is not a
    compressor.

    ``exact`` keeps k tokens for any k: it drops the N - k most similar of all compared tokens. If all of them are too
    few, the rule is repeated on the video of the frames 0. A single frame keeps its first places. Ties go to the lower
    index. Similarity is measured in fp32 as half the squared distance of unit vectors, which is 1 - cosine without
    cancellation.

    ``official`` follows the release: every compared frame drops the fraction ``drop_share``, whatever the budget, so
    that at least a quarter of the tokens remains. It drops the last of an odd number of frames, does not compare frame
    2 of a last complete group, and fails on fewer than five frames.

    Args:
        budget: retention ratio or tokens per video; ``official`` ignores it.
        variant: "exact" for the rule above, "official" for the release.
        drop_share: fraction of a compared frame that ``official`` drops; 0.7 in the paper.

    Raises:
        ConfigError: an unknown variant, or a drop_share outside [0, 1].
        InputError: ``official`` on fewer than five frames.
    """

    name = "dycoke"
    paper = "DyCoke, arXiv 2411.15024"
    keeps = "first frames of groups of four, and tokens that differ from them"
    cost = "one cosine similarity per token, and a sort"
    licence = "Apache-2.0"
    deviations = (
        "drops the most similar tokens of the whole video instead of a fixed part of each compared frame; treats the "
        "last frames as all others; repeats the rule on the first frames of groups at budgets under a quarter"
    )

    def __init__(
        self, budget: Budget = 0.25, *, variant: Literal["exact", "official"] = "exact", drop_share: float = 0.7
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"dycoke: variant must be 'exact' or 'official', got {variant!r}")
        if not 0 <= drop_share <= 1:
            raise ConfigError(f"dycoke: drop_share must be in [0, 1], got {drop_share}")
        self.variant, self.drop_share = variant, drop_share
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        x = video.as_grid().flatten(1, 2)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if self.exact_budget:
                rows = select_changed(rescale_if_extreme(x), k)
            else:
                rows = released_rows(x, self.drop_share).sort().values
        return video.keep(rows)


def select_changed(x: Tensor, k: int) -> Tensor:
    """Return the (k,) rows, ascending, that the exact rule of :class:`DyCoke` keeps.

    Args:
        x: (T, P, D) features, as :func:`~framefold.adapters.ops.similarity.rescale_if_extreme` returns them.
        k: number of rows.
    """
    per_frame, frames = x.shape[1], torch.arange(len(x), device=x.device)
    while len(frames) > 1 and k < per_frame * len(frames[::GROUP]):
        frames = frames[::GROUP]
    score = group_changes(x, frames)
    score[::GROUP] = torch.inf
    rows = exact_topk(score.reshape(-1), k)
    return frames[rows // per_frame] * per_frame + rows % per_frame


def group_changes(x: Tensor, frames: Tensor) -> Tensor:
    """Return (F, P) half squared distances of normalized tokens to those of their reference frame; 0 for frames 0.

    Args:
        x: (T, P, D) features.
        frames: (F,) int64 frames to compare, in groups of four.
    """
    change = torch.zeros(len(frames), x.shape[1], device=x.device)
    first = even = x.new_empty(0)
    for i, t in enumerate(frames.tolist()):
        unit = normalize(x[t].float(), TINY)
        if i % GROUP == 0:
            first = even = unit
            continue
        change[i] = torch.linalg.vector_norm(unit - (even if i % 2 else first), dim=-1).square() / 2
        even = even if i % 2 else unit
    return change
