"""The released code of HoliTom before the language model (arXiv 2505.21334; cokeshao/HoliTom @ e9b2972).

Dimensions: T frames of P tokens, N = T*P, D width, W windows, k tokens returned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters.ops.density_peaks import Clusters, WeightedGroups, blended, keep_only, peak_clusters
from framefold.adapters.ops.selection import exact_topk
from framefold.adapters.ops.windows import static_positions, still_windows, window_sets
from framefold.errors import InputError

HIGH_RATIO = 0.15  # from which the scripts of the release use the higher threshold; the only lower one is 0.1


@dataclass(frozen=True)
class ReleasedHoliTom:
    """What the release computes of a video.

    Attributes:
        windows: (W, 2) int64 first and last frame of each window.
        reduced: tokens that the static positions save.
        ratio: the ratio that remains for the tokens left, at most 1.
        groups: the output tokens in the order of the release, window by window: static ones, then frames.
    """

    windows: Tensor
    reduced: int
    ratio: float
    groups: WeightedGroups


@torch.no_grad()
def holitom_as_released(
    features: Tensor,
    attention: Tensor,
    ratio: float,
    tau: float,
    *,
    context_share: float = 0.0,
    beta: float | None = 0.6,
    neighbours: int = 7,
    longest: int = 1024,
) -> ReleasedHoliTom:
    """Form the groups of the release, with its rounding; the number of tokens follows from the ratio and the video.

    Args:
        features: (T, P, D).
        attention: (T, P) received attention.
        ratio: retention ratio.
        tau: cosine similarity of still positions.
        context_share: share of the clusters in the tokens of a frame (``D`` of the release).
        beta: weight of a centre in its cluster; None: plain means (``NO_BETA``).
        neighbours: of the density (``K``).
        longest: maximum frames of a window.

    Raises:
        InputError: a frame has clusters, which a positive ``context_share`` asks for: the release fails.
    """
    frames, positions, _ = features.shape
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    similar = torch.nn.functional.cosine_similarity(x[:-1], x[1:], dim=-1) > tau
    windows, reduced = still_windows(similar, longest)
    n = frames * positions
    left = min(ratio / ((n - reduced) / n), 1)
    groups = WeightedGroups.empty(n, x.device)
    for tokens in window_sets(windows, static_positions(windows, similar)):
        size = len(tokens.positions)
        if tokens.is_static:
            count = round(size * left)
            clusters = _clusters(tokens.points(x), count, neighbours, beta)
        else:
            count = math.ceil(size * left)
            if round(count * (1 - context_share)) < count:
                raise InputError("holitom: the release fails at a share of clusters above 0: use variant='exact'")
            clusters = keep_only(exact_topk(attention[tokens.first, tokens.positions], count), size)
        groups.add(tokens.rows(positions), clusters)
    return ReleasedHoliTom(windows, reduced, left, groups)


def _clusters(points: Tensor, count: int, neighbours: int, beta: float | None) -> Clusters:
    if count == 0:
        return keep_only(torch.zeros(0, dtype=torch.long, device=points.device), len(points))
    return blended(*peak_clusters(points, count, min(neighbours, count)), beta)


def script_threshold(tau: float | None, ratio: float) -> float:
    """Return tau, or the threshold of the scripts of HoliTom and Tango at a retention ratio if it is None."""
    return tau if tau is not None else 0.65 if ratio < HIGH_RATIO else 0.8
