"""The released steps of AOT, where anchors absorb other tokens by optimal transport (arXiv 2603.01400).

The released file (TyroneLi/AOT @ 88455ee) does not compile; this is what it is meant to do. It acts on the encoder's
map of 27 x 27 tokens and on the attention of all its layers:

1. anchors of each frame (:func:`window_anchors`) absorb the other tokens of the frame (:func:`merge_in_frame`);
2. map and anchors are pooled to 14 x 14, which leaves a number of tokens that depends on the video;
3. the tokens of the first frame of each clip absorb those of the others (:func:`merge_clips`).

:class:`~framefold.adapters.compressors.aot.AOT` uses the transport. Dimensions: T frames of P = H*W tokens, D width; M
sources are transported to n anchors; B problems at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EPSILON, ITERATIONS, TOLERANCE = 0.1, 100, 1e-2  # of Sinkhorn's algorithm
COLLECTED = 4  # iterations whose factors are collected before they are applied to a plan
SPATIAL_WEIGHT = 0.5  # of the distance in a frame of side 1
NEAREST_SHARE = 0.1  # of the mean over the nearest tokens in an anchor of step 1
SIGMA = 1.5  # frames
LIMIT = 1 - 1e-6  # of cosine similarities between frames


@dataclass(frozen=True)
class ClipTransport:
    """Settings of the transport between the frames of a clip.

    Attributes:
        epsilon: entropy, see :func:`sinkhorn`.
        iterations: upper bound.
        sigma: number of frames over which the cost grows.
        scaling: weight of an absorbed token, of 1 for an anchor.
    """

    epsilon: float = EPSILON
    iterations: int = ITERATIONS
    sigma: float = SIGMA
    scaling: float = 1.0


RELEASED = ClipTransport()


def sinkhorn(
    cost: Tensor,
    epsilon: float = EPSILON,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    joint: bool = True,
) -> Tensor:
    """Return the entropic transport plans between uniform masses, in the log domain.

    A problem stops when the scaling of its rows changes by less than ``tolerance`` on average.

    Args:
        cost: (B, M, n) non-negative costs in fp32 or wider.
        epsilon: entropy; smaller values give sharper plans.
        iterations: upper bound.
        tolerance: see above.
        joint: stop all problems together by their mean, as the release does, so that a result depends on the others.

    Returns:
        (B, M, n) plans of mass 1.
    """
    sources, anchors = cost.shape[1:]
    kernel = cost / -epsilon
    rows = -kernel.logsumexp(2, keepdim=True) - math.log(sources)
    columns = -(kernel + rows).logsumexp(1, keepdim=True) - math.log(anchors)
    plan = kernel.add_(rows).add_(columns).exp_()
    # From here on, sums of rows and columns are at least 1 / (M n), so a few factors may be collected without overflow.
    total, before = rows.exp(), torch.ones_like(rows)
    by_row, by_column = torch.ones_like(rows), torch.ones_like(columns).mT
    active = torch.ones_like(total, dtype=torch.bool)[:, :1]
    for step in range(1, iterations):
        scale = total * by_row
        change = (scale - before).abs_()
        active = active & ~((change.mean() if joint else change.mean(1, keepdim=True)) < tolerance)
        if not bool(active.any()):
            break
        before = scale
        by_row = torch.where(active, 1 / (sources * (plan @ by_column)), by_row)
        by_column = torch.where(active, 1 / (anchors * (plan.mT @ by_row)), by_column)
        if step % COLLECTED == 0:
            plan, total = plan * by_row * by_column.mT, total * by_row
            by_row, by_column = torch.ones_like(by_row), torch.ones_like(by_column)
    return plan * by_row * by_column.mT


def grid_positions(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return (H*W, 2) positions of the tokens of a frame of side 1; the only token of a side is at 0."""
    y, x = (torch.linspace(0, 1, side, device=device) for side in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


def cosines(sources: Tensor, anchors: Tensor) -> Tensor:
    """Return (B, M, n) cosine similarities of (B, M, D) sources and (B, n, D) anchors; 0 for a zero vector."""
    return functional.normalize(sources, dim=-1) @ functional.normalize(anchors, dim=-1).mT


def frame_cost(cosine: Tensor, distance: Tensor) -> Tensor:
    """Return the cost of transport in a frame, given similarities and distances in the frame."""
    return 1 - cosine + SPATIAL_WEIGHT * distance


def time_cost(cosine: Tensor, steps: Tensor, sigma: float = SIGMA) -> Tensor:
    """Return the cost of transport from later frames.

    It grows with the time between the frames, relative to the smallest cost.

    Args:
        cosine: (B, M, n) similarities.
        steps: (B,) number of frames between sources and anchors.
        sigma: number of frames over which the cost grows.
    """
    cost = 1 - cosine.clamp(-LIMIT, LIMIT)
    return (cost - cost.amin((1, 2), keepdim=True)) * (1 - torch.exp(-(steps**2) / (2 * sigma**2)))[:, None, None]


def absorb(anchors: Tensor, sources: Tensor, plan: Tensor) -> Tensor:
    """Return (..., n, D) weighted means of anchors, of weight 1, and (..., M, D) sources, weighted by the plan."""
    return (anchors + plan.mT @ sources) / (1 + plan.sum(-2))[..., None]


def absorb_nearest(anchors: Tensor, sources: Tensor, cosine: Tensor) -> Tensor:
    """Return (..., n, D) plain means of each anchor and the sources that are most similar to it."""
    nearest = functional.one_hot(cosine.argmax(-1), anchors.shape[-2])
    return absorb(anchors, sources, nearest.to(anchors.dtype))


def window_anchors(shallow: Tensor, deep: Tensor, count: int, global_ratio: float, window: int = 9) -> Tensor:
    """Return (T, H, W) bool, the anchors of each frame.

    Some have the highest attention of a shallow layer in each window, the rest has the highest attention of a deep
    layer among the others. If the first part is not divisible by the number of windows, there are fewer than ``count``.

    Args:
        shallow: (T, H, W) attention received in a shallow layer.
        deep: (T, H, W) attention received in a deep layer.
        count: number of anchors of a frame.
        global_ratio: share of the second part.
        window: side of the windows.
    """
    frames, height, width = shallow.shape
    local = int(count * (1 - global_ratio))
    rows, columns = height // window, width // window
    tiles = shallow.reshape(frames, rows, window, columns, window).transpose(2, 3).reshape(frames, rows * columns, -1)
    order = tiles.sort(dim=-1, descending=True, stable=True).indices[..., : local // (rows * columns)]
    chosen = torch.zeros_like(tiles, dtype=torch.bool).scatter(-1, order, True)
    chosen = chosen.reshape(frames, rows, columns, window, window).transpose(2, 3).reshape(frames, height * width)
    rest = deep.reshape(frames, -1).masked_fill(chosen, 0)
    order = rest.sort(dim=-1, descending=True, stable=True).indices[:, : count - local]
    return chosen.scatter(-1, order, True).reshape(frames, height, width)


def merge_in_frame(features: Tensor, anchors: Tensor) -> Tensor:
    """Let the anchors of each frame absorb its other tokens.

    Args:
        features: (T, H, W, D) features in fp32 or wider.
        anchors: (T, H, W) bool, equally many in each frame.

    Returns:
        (T, H, W, D); only the anchors have changed.
    """
    frames, height, width, _ = features.shape
    x, chosen = features.flatten(1, 2), anchors.flatten(1)
    if bool(chosen.all()):
        return features
    positions = grid_positions(height, width, x.device).to(x.dtype).expand(frames, -1, -1)
    kept, rest = x[chosen].unflatten(0, (frames, -1)), x[~chosen].unflatten(0, (frames, -1))
    cosine = cosines(rest, kept)
    ends = (positions[~chosen].unflatten(0, (frames, -1)), positions[chosen].unflatten(0, (frames, -1)))
    plan = sinkhorn(frame_cost(cosine, torch.cdist(*ends)))
    merged = (1 - NEAREST_SHARE) * absorb(kept, rest, plan) + NEAREST_SHARE * absorb_nearest(kept, rest, cosine)
    return x.index_put((chosen,), merged.flatten(0, 1)).reshape(features.shape)


def merge_frame_into(
    anchors: Tensor, sources: Tensor, steps: float, keep_ratio: float, settings: ClipTransport = RELEASED
) -> tuple[Tensor, Tensor, Tensor]:
    """Let the anchors of a clip absorb the tokens of a later frame, but for those with the least certain destination.

    Args:
        anchors: (n, D) anchors so far.
        sources: (M, D) tokens of the frame.
        steps: number of frames since the first frame of the clip.
        keep_ratio: quantile of certainty below which tokens are kept.
        settings: of the transport.

    Returns:
        (n, D) anchors, (M,) bool kept tokens, and the (M, n) plan.
    """
    cosine = cosines(sources[None], anchors[None])
    cost = time_cost(cosine, cosine.new_tensor([steps]), settings.sigma)
    plan = sinkhorn(cost, settings.epsilon, settings.iterations)[0]
    share = plan / plan.sum(1, keepdim=True)
    certainty = share.amax(1).double()
    kept = certainty < torch.quantile(certainty, keep_ratio)
    return absorb(anchors, sources, settings.scaling * share.masked_fill(kept[:, None], 0)), kept, plan


def merge_clips(
    features: Tensor,
    present: Tensor,
    lengths: Sequence[int],
    keep_ratio: float,
    settings: ClipTransport = RELEASED,
) -> Tensor:
    """Return the (K, D) tokens of all clips: of each, its first frame, kept tokens of the others, merged anchors.

    So the anchors occur twice, and the merged ones after tokens of later frames. A clip of one frame is only kept.

    Args:
        features: (T, P, D) features in fp32 or wider.
        present: (T, P) bool, the tokens that are left of each frame.
        lengths: number of frames of each clip.
        keep_ratio: see :func:`merge_frame_into`.
        settings: of the transport.
    """
    out, start = [], 0
    for length in lengths:
        anchors = features[start][present[start]]
        out.append(anchors)
        for step in range(1, length):
            sources = features[start + step][present[start + step]]
            anchors, kept, _ = merge_frame_into(anchors, sources, step, keep_ratio, settings)
            out.append(sources[kept])
        if length > 1:
            out.append(anchors)
        start += length
    return torch.cat(out)
