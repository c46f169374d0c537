"""VidCom2: keep the tokens least similar to their video and frame, more in distinctive frames (arXiv 2505.14454)."""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.base.frame_pruner import FramePruner, engine_token_count
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import rank_in_frame, select_by_stage
from framefold.adapters.ops.similarity import Frames, gaussian_similarity, normalize, steady_channels

TEMPERATURE = 0.01


class VidCom2(FramePruner):
    """Keeps the tokens least similar to the means of video and frame; distinctive frames get more. Training-free.

    1. Select the half of the channels with the lowest variance over the video, and normalize each token.
    2. The redundancy of a token is its similarity (Gaussian kernels of five widths) with the mean over the video plus
       its similarity with the mean over its frame.
    3. The budget of a frame is the retention ratio times P times (1 + w - 1/T), where w is the softmax (temperature
       0.01) over frames of the negative mean similarity with the video. It is rounded and limited to 1 ... P.
    4. Each frame keeps its least redundant tokens. If the total is too low, the least redundant dropped tokens of all
       frames are added; if it is too high, the most redundant kept tokens of all frames are removed.

    ``official`` keeps max(T, min(trunc(N * (1 - q)), N)) tokens, as the engines do; step 4 may leave a frame without
    tokens. The authors' own code omits the second sentence of step 4 (:func:`authors_rows`) and so keeps another
    number of tokens.

    ``exact`` keeps k tokens for any k. Step 3 uses the ratio k / N, and step 4 never removes the last token of a frame,
    so every frame keeps one if k >= T. If k < T, the k frames with the least redundant tokens keep one each. Ties go to
    the lower index; channels of equal variance at the half, to the lower channel.
    """

    name = "vidcom2"
    paper = "VidCom2, arXiv 2505.14454"
    keeps = "tokens unlike their frame and their video, pruned as in serving engines"
    cost = "two similarities per token, and a sort"
    licence = "Apache-2.0"
    deviations = (
        "uses the ratio k / N and never removes the last token of a frame; the engines keep at least T "
        "tokens, the authors as many as the rounded frame budgets have"
    )

    def select_exact(self, video: VideoTokens, k: int) -> Tensor:
        similarity = mean_similarities(Frames(video, rescale=True))
        rank = rank_in_frame(similarity.redundancy)
        kept = rank < frame_budgets(similarity.weights, k / len(video), video.per_frame)[:, None]
        return select_by_stage(torch.where(rank == 0, 0, torch.where(kept, 1, 2)), similarity.redundancy, k)

    def select_official(self, video: VideoTokens, q: float) -> Tensor:
        return vidcom2_official_rows(mean_similarities(Frames(video, self.native)), q)


class MeanSimilarities:
    """Similarity of every token with the means of its video and its frame.

    Attributes:
        to_video: (T, P) similarity with the mean of the video, in (0, 5].
        to_frame: (T, P) similarity with the mean of the frame, in (0, 5].
    """

    def __init__(self, to_video: Tensor, to_frame: Tensor) -> None:
        self.to_video, self.to_frame = to_video, to_frame

    @property
    def redundancy(self) -> Tensor:
        """(T, P) redundancy of each token; tokens with low values are kept."""
        return self.to_video + self.to_frame

    @property
    def weights(self) -> Tensor:
        """(T,) distinctiveness of each frame, summing to 1; most of it usually falls on one frame."""
        unlike = -self.to_video.mean(1)
        return ((unlike - unlike.max()) / TEMPERATURE).softmax(0)


def mean_similarities(frames: Frames) -> MeanSimilarities:
    """Compute steps 1 and 2 of :class:`VidCom2` in the dtype of the frames; sums are accumulated in fp32 or wider."""
    channels = steady_channels(channel_variances(frames))
    wide = torch.promote_types(frames.dtype, torch.float32)
    t, p, _ = frames.video.shape
    total = torch.zeros(len(channels), dtype=wide, device=frames.video.device)
    to_frame, to_video = [], []
    for frame in frames:
        unit = normalize(frame.index_select(1, channels), 1e-12)
        centre = unit.sum(0, dtype=wide)
        total += centre
        to_frame.append(gaussian_similarity(unit, (centre / p).to(unit.dtype)))
    total /= t * p
    for frame in frames:  # normalized again, because storing all normalized frames would need the memory of the video
        to_video.append(gaussian_similarity(normalize(frame.index_select(1, channels), 1e-12), total.to(frame.dtype)))
    return MeanSimilarities(torch.stack(to_video), torch.stack(to_frame))


def channel_variances(frames: Frames) -> Tensor:
    """Return the (D,) population variance of each channel: variance within frames plus variance of frame means."""
    wide = torch.promote_types(frames.dtype, torch.float32)
    means, within = [], []
    for frame in frames:
        frame = frame.to(wide)
        means.append(frame.mean(0))
        within.append((frame - means[-1]).square_().mean(0))
    return (torch.stack(within).mean(0) + torch.stack(means).var(0, correction=0)).to(frames.dtype)


def frame_budgets(weights: Tensor, ratio: float, p: int) -> Tensor:
    """Return the (T,) int64 token budget of each frame at a retention ratio: step 3 of :class:`VidCom2`."""
    scale = (ratio * (1 + weights - weights.mean())).clamp(max=1)
    return (scale * p).round().clamp(1, p).long()


def vidcom2_official_rows(similarity: MeanSimilarities, q: float) -> Tensor:
    """Return the rows, ascending, that the engines keep at pruning rate q."""
    t, p = similarity.to_video.shape
    kept = rank_in_frame(similarity.redundancy) < frame_budgets(similarity.weights, 1 - q, p)[:, None]
    count = engine_token_count(t * p, q, at_least=t)
    return select_by_stage(torch.where(kept, 0, 1), similarity.redundancy, count)


def authors_rows(similarity: MeanSimilarities, q: float) -> Tensor:
    """Return the rows, ascending, that the authors' own code keeps: the frame budgets, whatever their total."""
    budgets = frame_budgets(similarity.weights, 1 - q, similarity.to_video.shape[1])
    return (rank_in_frame(similarity.redundancy) < budgets[:, None]).reshape(-1).nonzero()[:, 0]
