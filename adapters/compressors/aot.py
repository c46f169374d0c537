"""AOT: anchors of the first frame of a clip absorb similar tokens by optimal transport (arXiv 2603.01400)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import share
from framefold.adapters.ops.partition import split_runs
from framefold.adapters.ops.segments import segment_sum
from framefold.adapters.ops.selection import complement, rank_in_group, select_by_stage
from framefold.adapters.ops.similarity import RESOLUTION, TINY, rescale_if_extreme
from framefold.adapters.reference.aot import NEAREST_SHARE, frame_cost, grid_positions, sinkhorn, time_cost
from framefold.errors import ConfigError

WINDOWS = 3  # along each side of a frame


class AOT(Compressor):
    """Keeps the tokens that match no anchor of their clip, and lets the anchors absorb all others. Training-free.

    The video is divided into clips of about ``segment_frames`` frames, at most k of them, and the budget in proportion
    to their frames (largest remainders, ties to the earlier clip). For a clip of c frames with k_c tokens:

    1. Its anchors are n = k_c / (1 + (c - 1) keep_ratio) tokens of its first frame, rounded to a number for which the
       budget can be met: those with the highest attention in each of 3 x 3 windows, in all a share of
       1 - ``global_ratio`` rounded down to equal parts, and the rest with the highest attention among all others.
    2. The anchors absorb the other tokens of the first frame: a tenth of the mean over the tokens most similar to each
       anchor, and nine tenths of the result of optimal transport. Its cost is 1 - cos plus half the distance in a frame
       of side 1.
    3. The tokens of each later frame are transported to the anchors, too, at a cost of 1 - cos relative to the smallest
       cost, which grows with the time since the first frame. The certainty of a token is the largest share of it that
       one anchor receives. The k_c - n least certain tokens of the clip stay as they are; ties go to the token that is
       less similar to its anchor, then to the lower index.
    4. The other tokens are absorbed by the anchors, frame after frame, each with its shares as weights.

    Transport is entropic (Sinkhorn's algorithm in the log domain), separately for each frame. In ``assign``, an
    absorbed token belongs to the anchor that receives most of it. Gradients pass through the means, not through their
    weights. The defaults are those of the release.

    Args:
        budget: retention ratio or tokens per video.
        segment_frames: number of frames of a clip; lengths differ by at most one.
        keep_ratio: share of the tokens of later frames to keep, relative to the anchors.
        global_ratio: share of the anchors with the highest attention of the frame instead of a window.

    Raises:
        ConfigError: a parameter is out of range.
    """

    name = "aot"
    paper = "AOT, arXiv 2603.01400"
    keeps = "attended tokens of the first frame of each clip that absorb similar tokens, and tokens unlike them"
    cost = "two products of each token with the anchors of its clip, and a few passes of Sinkhorn's algorithm"
    licence = "MIT"
    deviations = (
        "one attention map instead of those of two layers; all tokens of later frames are transported to the anchors "
        "of the first frame, and the least certain ones of a clip are kept; anchors are returned once, merged; no "
        "pooling in between"
    )
    needs_attention = True

    def __init__(
        self, budget: Budget = 0.25, *, segment_frames: int = 4, keep_ratio: float = 0.4, global_ratio: float = 0.5
    ) -> None:
        super().__init__(budget)
        if segment_frames < 1 or not 0 <= keep_ratio <= 1 or not 0 <= global_ratio <= 1:
            raise ConfigError(f"aot: out of range: {segment_frames=}, {keep_ratio=}, {global_ratio=}")
        self.segment_frames, self.keep_ratio, self.global_ratio = segment_frames, keep_ratio, global_ratio

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        (frames, height, width), cells = video.grid, video.per_frame
        lengths = torch.bincount(split_runs(frames, min(k, -(-frames // self.segment_frames))))
        budgets = share(k, lengths, lengths * cells)
        clips = zip((lengths.cumsum(0) - lengths).tolist(), lengths.tolist(), budgets.tolist(), strict=True)
        target = torch.full_like(video.assign, -1)  # token to which each one goes
        anchors, merged = [], []
        for start, length, own in clips:
            rows = slice(start * cells, (start + length) * cells)
            x, attention = video.features[rows], video.attention[rows][:cells].float()  # type: ignore[index]
            if own == 0:
                continue
            count = self._anchor_count(own, length, cells)
            places = self._anchors(attention, (height, width), count)
            with torch.autocast(x.device.type, enabled=False):
                absorbed, goal = _absorb(x.unflatten(0, (length, cells)), places, (height, width), own - count)
            target[rows] = goal + rows.start
            anchors.append(places + rows.start)
            merged.append(absorbed.to(x.dtype))
        return _replace_anchors(video, target, torch.cat(anchors), torch.cat(merged))

    def _anchor_count(self, k: int, length: int, cells: int) -> int:
        """Return n, for which n anchors of the first frame and k - n tokens of the others exist."""
        count = round(k / (1 + (length - 1) * self.keep_ratio))
        return min(max(count, 1, k - (length - 1) * cells), k, cells)

    def _anchors(self, attention: Tensor, grid: tuple[int, int], count: int) -> Tensor:
        """Return the (n,) places of the anchors in the first frame, ascending."""
        rows, columns = (min(WINDOWS, side) for side in grid)
        window = (split_runs(grid[0], rows)[:, None] * columns + split_runs(grid[1], columns)).reshape(-1)
        each = int(count * (1 - self.global_ratio)) // (rows * columns)
        stage = torch.where(rank_in_group(attention, window.to(attention.device)) < each, 0, 1)
        return select_by_stage(stage, -attention, count)


def _absorb(x: Tensor, anchors: Tensor, grid: tuple[int, int], keep: int) -> tuple[Tensor, Tensor]:
    """Let the anchors of a clip absorb its other tokens.

    Args:
        x: (c, P, D) features of the clip.
        anchors: (n,) places in the first frame.
        grid: (H, W) of a frame.
        keep: number of tokens of later frames to keep.

    Returns:
        (n, D) features of the anchors in fp32 or wider; and the (c*P,) token of the clip to which each one goes, which
        is an anchor, or itself.
    """
    length, cells = x.shape[:2]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    weights = _weights_in_frame(x[0], anchors, grid)
    target = torch.arange(length * cells, device=x.device)
    target[:cells] = anchors[weights.argmax(1)]
    target[anchors] = anchors
    merged = weights.T.to(wide.dtype) @ wide[0]
    if length > 1:
        share, weights, best, kept = _weights_of_later_frames(x[1:], merged.detach(), keep)
        target[cells:] = anchors[best]
        target[cells + kept] = cells + kept
        merged = share[:, None].to(wide.dtype) * merged + weights.T.to(wide.dtype) @ wide[1:].flatten(0, 1)
    return merged, target


@torch.no_grad()
def _weights_in_frame(x: Tensor, anchors: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the (P, n) weights of the (P, D) tokens of the first frame in each anchor, of sum 1."""
    weights = torch.zeros(len(x), len(anchors), device=x.device)
    rest = complement(anchors, len(x))
    if len(rest):
        similarity = _similarities(x[rest], x[anchors])
        positions = grid_positions(*grid, x.device)
        distance = torch.cdist(positions[rest], positions[anchors])
        plan = sinkhorn(frame_cost(similarity, distance)[None], joint=False)[0]
        nearest = torch.nn.functional.one_hot(similarity.argmax(1), len(anchors)).float()
        parts = ((plan, 1 - NEAREST_SHARE), (nearest, NEAREST_SHARE))
        weights[rest] = torch.stack([part * absorbed / (1 + absorbed.sum(0)) for absorbed, part in parts]).sum(0)
    weights[anchors] = torch.diag(1 - weights.sum(0))
    return weights


@torch.no_grad()
def _weights_of_later_frames(x: Tensor, anchors: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decide what the anchors absorb of the later frames of a clip.

    Args:
        x: (c - 1, P, D) features of these frames.
        anchors: (n, D) features of the anchors.
        keep: number of tokens to keep.

    Returns:
        (n,) weight of each anchor in its result, and (M, n) weights of the M = (c - 1) P tokens, 0 for kept ones; the
        (M,) anchor that receives most of each token; and the (keep,) tokens to keep.
    """
    similarity = _similarities(x, anchors)
    shares = sinkhorn(time_cost(similarity, torch.arange(1.0, len(x) + 1, device=x.device)), joint=False)
    shares /= shares.sum(2, keepdim=True)
    certainty, best = shares.flatten(0, 1).max(1)
    order = torch.sort(similarity.flatten(0, 1).gather(1, best[:, None])[:, 0], stable=True).indices
    kept = order[torch.sort(certainty[order], stable=True).indices][:keep]
    shares.view(-1, len(anchors))[kept] = 0
    left = 1 / (1 + shares.sum(1))  # (c - 1, n) weight in an anchor of what it was before each frame
    after = left.flip(0).cumprod(0).flip(0)  # and at the end
    return after[0], (shares * after[:, None]).flatten(0, 1), best, kept


def _similarities(x: Tensor, anchors: Tensor) -> Tensor:
    """Return (..., M, n) cosine similarities of (..., M, D) and (n, D) vectors; 0 for a zero vector."""
    x, anchors = rescale_if_extreme(x).float(), rescale_if_extreme(anchors).float()
    anchors = anchors / torch.linalg.vector_norm(anchors, dim=-1, keepdim=True).clamp_min(TINY)
    inverse = 1 / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(TINY)
    return ((x @ anchors.T) * (inverse / RESOLUTION)).round_() * RESOLUTION


def _replace_anchors(video: VideoTokens, target: Tensor, anchors: Tensor, merged: Tensor) -> VideoTokens:
    """Keep all tokens to which one goes, with the features of the anchors replaced.

    Args:
        video: the N tokens.
        target: (N,) token to which each one goes, -1 for none.
        anchors: (m,) rows of the anchors.
        merged: (m, D) their features.
    """
    index = (target == torch.arange(len(target), device=target.device)).nonzero()[:, 0]
    number = torch.full_like(target, -1)
    number[index] = torch.arange(len(index), device=index.device)
    features = video.features[index].index_copy_(0, number[anchors], merged)
    assign = torch.where(target < 0, -1, number[target])
    return replace(
        video, features=features, index=index, size=segment_sum(video.size, assign, len(index)), assign=assign
    )
