"""The released code of PruneVid before the language model (arXiv 2412.16117; Visual-AI/PruneVid @ b12600c).

Dimensions: T frames of P tokens, D width, W windows, k tokens returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from framefold.adapters.ops.density_peaks import WeightedGroups, blended, keep_only, peak_clusters
from framefold.adapters.ops.similarity import normalize
from framefold.adapters.ops.windows import TokenSet, window_sets
from framefold.errors import InputError

SMALL = 14  # sets of at most so many tokens are not reduced
NEIGHBOURS = 7  # of the density of tokens, whatever that of frames


@dataclass(frozen=True)
class ReleasedPruneVid:
    """What the release computes of a video.

    Attributes:
        clusters: (T,) int64 cluster of each frame, numbered in order of their scores.
        windows: (W, 2) int64 first and last frame of each window.
        static_sizes: (W,) int64 tokens of still positions that are returned for each window.
        dynamic_sizes: (W,) int64 tokens of frames that are returned for each window.
        groups: the output tokens in the order of the release: window by window, static ones, then frames.
    """

    clusters: Tensor
    windows: Tensor
    static_sizes: Tensor
    dynamic_sizes: Tensor
    groups: WeightedGroups


@torch.no_grad()
def prunevid_as_released(
    features: Tensor, *, tau: float = 0.8, segment_ratio: float = 0.25, cluster_ratio: float = 0.5, neighbours: int = 7
) -> ReleasedPruneVid:
    """Form the groups of the release; the number of tokens follows from its parameters and the video.

    Args:
        features: (T, P, D).
        tau: mean cosine similarity of the frames of a window at a still position.
        segment_ratio: clusters of frames as a share of the frames.
        cluster_ratio: clusters of tokens as a share of the tokens of a set.
        neighbours: of the density of frames; that of tokens always has seven.

    Raises:
        InputError: the video has fewer frames than neighbours, or there is no cluster of frames or of a set of more
            than 14 tokens: the release fails.
    """
    frames, positions, _ = features.shape
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    count = int(frames * segment_ratio)
    if frames < neighbours or count == 0:
        raise InputError(f"prunevid: the release fails on a video of {frames} frames: use variant='exact'")
    _, clusters = peak_clusters(x.mean(1), count, neighbours, by_score=True)
    windows = run_windows(refine_runs(clusters.tolist()))
    groups = WeightedGroups.empty(frames * positions, x.device)
    sizes = torch.zeros(2, len(windows), dtype=torch.long)
    for tokens in window_sets(windows, alike_positions(x, windows, tau)):
        before = len(groups.anchors)
        _add_released(groups, tokens, x, cluster_ratio)
        window = int((windows[:, 0] <= tokens.first).sum()) - 1
        sizes[0 if tokens.is_static else 1, window] += len(groups.anchors) - before
    return ReleasedPruneVid(clusters, windows, sizes[0], sizes[1], groups)


def _add_released(groups: WeightedGroups, tokens: TokenSet, x: Tensor, cluster_ratio: float) -> None:
    """Add the clusters of a set, in order of their scores, or all tokens of a small set."""
    size = len(tokens.positions)
    count = int(size * cluster_ratio)
    if size <= SMALL:
        return groups.add(tokens.rows(x.shape[1]), keep_only(torch.arange(size, device=x.device), size))
    if count == 0:
        raise InputError(f"prunevid: the release fails without a cluster of {size} tokens: use variant='exact'")
    centres, label = peak_clusters(tokens.points(x), count, NEIGHBOURS, by_score=True)
    groups.add(tokens.rows(x.shape[1]), blended(centres, label, None))


def alike_positions(x: Tensor, windows: Tensor, tau: float) -> Tensor:
    """Return (W, P) bool, the positions whose frames have a mean pairwise cosine similarity above tau in a window.

    No position of a window of one frame is alike.

    Args:
        x: (T, P, D) features.
        windows: (W, 2) int64.
        tau: threshold.
    """
    alike = torch.zeros(len(windows), x.shape[1], dtype=torch.bool, device=x.device)
    for window, (first, last) in enumerate(windows.tolist()):
        length = last - first + 1
        if length == 1:
            continue
        total = torch.zeros(x.shape[1:], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        for frame in x[first : last + 1]:
            total += normalize(frame.to(total.dtype), 1e-15)
        alike[window] = (total.square().sum(-1) - length) / (length * (length - 1)) > tau
    return alike


def refine_runs(clusters: list[int]) -> list[tuple[int, int]]:
    """Return contiguous runs of frames for clusters of frames: (cluster, length) of each run.

    Of each cluster, only the longest runs stay, and none of one frame. A gap joins the longer of its neighbours, the
    left one if they are equally long; cluster 0 if it has none.
    """
    runs = [(cluster, len(list(frames))) for cluster, frames in groupby(clusters)]
    longest: dict[int, int] = {}
    for cluster, length in runs:
        longest[cluster] = max(length, longest.get(cluster, 0))
    kept = [(cluster if length == longest[cluster] > 1 else None, length) for cluster, length in runs]
    parts = [(cluster, sum(n for _, n in same)) for cluster, same in groupby(kept, key=lambda run: run[0])]
    out: list[tuple[int, int]] = []
    for i, (cluster, length) in enumerate(parts):
        if cluster is None:
            right = parts[i + 1] if i + 1 < len(parts) else (None, 0)
            left = out[-1] if out else (None, 0)
            cluster = (right if right[1] > left[1] else left)[0] or 0
        if out and out[-1][0] == cluster:
            length += out.pop()[1]
        out.append((cluster, length))
    return out


def run_windows(runs: list[tuple[int, int]]) -> Tensor:
    """Return the (W, 2) int64 first and last frame of each run."""
    last = torch.tensor([length for _, length in runs]).cumsum(0) - 1
    return torch.stack([torch.cat([last.new_zeros(1), last[:-1] + 1]), last], dim=1)
