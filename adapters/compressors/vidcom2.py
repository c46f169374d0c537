"""VidCom2: keeps what is unlike its video and its frame, more of it in frames that stand out (arXiv 2505.14454)."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.frame_pruner import FramePruner
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import rank_in_frame, select
from framefold.adapters.ops.similarity import Frames, normalize

BANDWIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)

TEMPERATURE = 0.01


class VidCom2(FramePruner):
    """Keeps the tokens least like the mean of the video and of their frame; unlike frames get more. Training-free.

    1. The half of the channels that vary least over the video, each token normalized.
    2. Redundancy of a token: its similarity (Gaussian kernels of five widths) with the mean over the video, plus that
       with the mean over its frame.
    3. A frame's budget is the retention ratio times P, times 1 + w - 1/T, with w the softmax (temperature 0.01) over
       frames of minus the mean similarity with the video; rounded, at least 1 and at most P.
    4. Each frame keeps its least redundant tokens. What is missing of the count comes from the least redundant tokens
       dropped anywhere; what is too much goes from the most redundant ones kept anywhere.

    ``official`` keeps max(T, min(trunc(N * (1 - q)), N)) tokens, as the engines do; step 4 may leave a frame with none.
    The authors' own code has no second half of step 4 (:func:`authors_rows`), and so another count.

    ``exact`` keeps k tokens, whatever k, at the ratio k / N in step 3, and in step 4 a frame never loses its last
    token: none vanishes where k >= T. Where k < T, the k frames stay whose least redundant token is the least
    redundant. Ties go to the lower index; channels that tie at the half, to the lower channel.
    """

    name = "vidcom2"

    def exact(self, video: VideoTokens, k: int) -> Tensor:
        similarity = mean_similarities(Frames(video, rescale=True))
        rank = rank_in_frame(similarity.redundancy)
        kept = rank < frame_budgets(similarity.weights, k / len(video), video.per_frame)[:, None]
        return select(torch.where(rank == 0, 0, torch.where(kept, 1, 2)), similarity.redundancy, k)

    def official(self, video: VideoTokens, q: float) -> Tensor:
        return vidcom2_official_rows(mean_similarities(Frames(video, self.native)), q)


class MeanSimilarities:
    """Similarity of every token with two means, and what follows for its frame.

    Attributes:
        to_video: (T, P) with the mean of the video; to_frame: (T, P) with the mean of its frame. Each in (0, 5].
    """

    def __init__(self, to_video: Tensor, to_frame: Tensor) -> None:
        self.to_video, self.to_frame = to_video, to_frame

    @property
    def redundancy(self) -> Tensor:
        """(T, P), low is kept."""
        return self.to_video + self.to_frame

    @property
    def weights(self) -> Tensor:
        """(T,) share of each frame in standing out, 1 in all; nearly everything goes to one frame."""
        unlike = -self.to_video.mean(1)
        return ((unlike - unlike.max()) / TEMPERATURE).softmax(0)


def mean_similarities(frames: Frames) -> MeanSimilarities:
    """Steps 1 and 2 of :class:`VidCom2`, in the dtype of the frames; sums are wider."""
    channels = steady_channels(channel_variances(frames))
    wide = torch.promote_types(frames.dtype, torch.float32)
    t, p, _ = frames.video.shape
    total = torch.zeros(len(channels), dtype=wide, device=frames.video.device)
    to_frame, to_video = [], []
    for frame in frames:
        unit = normalize(frame.index_select(1, channels), 1e-12)
        centre = unit.sum(0, dtype=wide)
        total += centre
        to_frame.append(kernel(unit, (centre / p).to(unit.dtype)))
    total /= t * p
    for frame in frames:  # normalized once more: the units of a whole video in 16 bits would take more than the video
        to_video.append(kernel(normalize(frame.index_select(1, channels), 1e-12), total.to(frame.dtype)))
    return MeanSimilarities(torch.stack(to_video), torch.stack(to_frame))


def channel_variances(frames: Frames) -> Tensor:
    """(D,) population variance of each channel over all tokens: variance within frames plus that of their means."""
    wide = torch.promote_types(frames.dtype, torch.float32)
    means, within = [], []
    for frame in frames:
        frame = frame.to(wide)
        means.append(frame.mean(0))
        within.append((frame - means[-1]).square_().mean(0))
    return (torch.stack(within).mean(0) + torch.stack(means).var(0, correction=0)).to(frames.dtype)


def steady_channels(variance: Tensor) -> Tensor:
    """(max(1, D // 2),) numbers, ascending, of the channels of lowest variance; ties to the lower channel."""
    half = max(1, len(variance) // 2)
    return torch.sort(variance, stable=True).indices[:half].sort().values


def kernel(unit: Tensor, centre: Tensor) -> Tensor:
    """(P,) sum of the Gaussian kernels of each row and a centre (D,)."""
    distance = (unit - centre).square_().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * width)) for width in BANDWIDTHS]).sum(0)


def frame_budgets(weights: Tensor, ratio: float, p: int) -> Tensor:
    """(T,) int64 tokens of each frame at a retention ratio, by step 3 of :class:`VidCom2`."""
    scale = (ratio * (1 + weights - weights.mean())).clamp(max=1)
    return (scale * p).round().clamp(1, p).long()


def vidcom2_official_count(t: int, p: int, q: float) -> int:
    """Tokens that the engines keep of t frames of p tokens at pruning rate q; the order of operations matters."""
    return max(t, min(int(t * p * (1 - q)), t * p))


def vidcom2_official_rows(similarity: MeanSimilarities, q: float) -> Tensor:
    """Rows, ascending, that the engines keep at pruning rate q."""
    t, p = similarity.to_video.shape
    kept = rank_in_frame(similarity.redundancy) < frame_budgets(similarity.weights, 1 - q, p)[:, None]
    return select(torch.where(kept, 0, 1), similarity.redundancy, vidcom2_official_count(t, p, q))


def authors_rows(similarity: MeanSimilarities, q: float) -> Tensor:
    """Rows, ascending, that the authors' own code keeps: the frame budgets, whatever their sum."""
    budgets = frame_budgets(similarity.weights, 1 - q, similarity.to_video.shape[1])
    return (rank_in_frame(similarity.redundancy) < budgets[:, None]).reshape(-1).nonzero()[:, 0]
