"""V-CAST: the outliers of each frame, more where the video changes direction (arXiv 2603.27650)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import share
from framefold.adapters.ops.selection import rank_in_frame
from framefold.adapters.ops.similarity import Frames, normalize
from framefold.adapters.reference.vcast import released_frame_budgets
from framefold.errors import ConfigError

EPS = 1e-6  # smaller norms count as this


class VCast(Compressor):
    """Keeps the outliers of each frame, and more of them in frames where the video changes direction. Training-free.

    1. The curvature of a frame is 1 - cos(f[t] - f[t-1], f[t+1] - f[t]), where f is the normalized mean of the tokens
       of a frame; it is 1 for the first and the last frame.
    2. Every frame gets ``min_tokens`` tokens. The others are divided in proportion to the softmax of curvature /
       ``temperature``.
    3. The score of a token is 1 - cos(x, f[t]), plus its norm, scaled to [0, 1] within its frame. Each frame keeps the
       tokens with the highest scores, unchanged. Ties go to the lower index.

    ``exact`` keeps k tokens for any k, also of a single frame. Step 2 is by largest remainder. If k < T *
    ``min_tokens``, no frame is guaranteed a token.

    ``official`` follows the release, which raises the budget to T * ``min_tokens`` tokens, gives all tokens that
    rounding leaves over to the frame with the largest fraction, and does not compress a single frame.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        temperature: temperature of the softmax over frames.
        min_tokens: least number of tokens of a frame.
        add_norm: add the norm to the score, as published.

    Raises:
        ConfigError: an unknown variant, or a parameter is out of range.
    """

    name = "vcast"
    paper = "V-CAST, arXiv 2603.27650"
    keeps = "tokens unlike the mean of their frame, more where the video changes direction"
    cost = "one pass over the tokens, and a sort"
    licence = "NOASSERTION"
    deviations = (
        "gives the tokens left over by rounding to the frames with the largest fractions instead of one frame; "
        "leaves frames empty if k < T instead of raising the budget; compresses a single frame"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        temperature: float = 0.7,
        min_tokens: int = 1,
        add_norm: bool = True,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"vcast: variant must be 'exact' or 'official', got {variant!r}")
        if not (temperature > 0 and min_tokens >= 0):
            raise ConfigError(f"vcast: out of range: {temperature=} (above 0), {min_tokens=} (at least 0)")
        self.variant, self.temperature, self.min_tokens, self.add_norm = variant, temperature, min_tokens, add_norm
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if not self.exact_budget and video.grid[0] == 1:
            return video
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            frames = outlier_scores(video, self.add_norm)
            budgets = self.frame_budgets(curvature(frames.mean), k, video.per_frame)
            kept = rank_in_frame(-frames.score) < budgets[:, None]
        return video.keep(kept.reshape(-1).nonzero()[:, 0])

    def frame_budgets(self, bends: Tensor, k: int, per_frame: int) -> Tensor:
        """Return the (T,) int64 tokens of each frame.

        Args:
            bends: (T,) curvature.
            k: number of tokens to keep.
            per_frame: number of tokens P of a frame.
        """
        weights = torch.softmax(bends / self.temperature, dim=0)
        if not self.exact_budget:
            return released_frame_budgets(weights, k, per_frame, self.min_tokens)
        floor = min(self.min_tokens, per_frame)
        floor = floor if k >= floor * len(bends) else 0
        room = torch.full((len(bends),), per_frame - floor, device=bends.device)
        return floor + share(k - floor * len(bends), weights, room)


@dataclass(frozen=True)
class FrameOutliers:
    """How unlike their frame tokens are.

    Attributes:
        mean: (T, D) fp32 normalized mean of each frame.
        score: (T, P) fp32 distance of each token from the mean of its frame, plus its norm.
    """

    mean: Tensor
    score: Tensor


def outlier_scores(video: VideoTokens, add_norm: bool = True) -> FrameOutliers:
    """Return the frame means and token scores of :class:`VCast`.

    Args:
        video: a dense video.
        add_norm: add the norm of a token, scaled to [0, 1] within its frame, to its score.
    """
    means, scores = [], []
    for x in Frames(video, rescale=True):
        mean = normalize(x.mean(0, keepdim=True), EPS)[0]
        length = torch.linalg.vector_norm(x, dim=-1)
        score = 1 - (x @ mean) / length.clamp_min(EPS)
        if add_norm:
            low, high = torch.aminmax(length)
            score += (length - low) / (high - low + EPS)
        means.append(mean)
        scores.append(score)
    return FrameOutliers(torch.stack(means), torch.stack(scores))


def curvature(means: Tensor) -> Tensor:
    """Return the (T,) curvature of the path of frame means: 0 where it is straight, 2 where it reverses.

    Args:
        means: (T, D) normalized.
    """
    step = normalize(means.diff(dim=0), EPS)
    out = means.new_ones(len(means))
    out[1:-1] = 1 - (step[1:] * step[:-1]).sum(-1)
    return out
