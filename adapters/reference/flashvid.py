"""The released code of FlashVID, reproduced with its defects (arXiv 2602.08024; Fanziyang-v/FlashVID @ 1d37422).

Dimensions: T frames of P tokens, N = T*P, D width. The noise that the release adds to densities is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.ops.links import tree_roots
from framefold.adapters.ops.similarity import normalize
from framefold.errors import InputError

FLOOR = 1e-20  # of norms; the release has none
NEIGHBOURS = 7  # of a density

Selection = Literal["attn_div", "attn_div_v2", "div", "attn"]


@dataclass(frozen=True)
class ReleasedFlashVID:
    """Output of the release.

    Attributes:
        segments: number of frames of each segment; it may be 0.
        tokens: (K, D) features.
        index: (K,) int64 position of each token, ascending. Segments of one frame repeat positions.
        anchor: (N,) int64 position of the token into which each original token is merged; -1 if it is dropped.
    """

    segments: list[int]
    tokens: Tensor
    index: Tensor
    anchor: Tensor


def flashvid_tokens(
    features: Tensor,
    attention: Tensor,
    ratio: float,
    *,
    method: Selection = "attn_div",
    alpha: float = 0.7,
    tau: float = 0.8,
    expansion: float = 1.25,
    do_segment: bool = True,
    cut: float = 0.9,
    min_segments: int = 8,
    complementary: bool = True,
) -> ReleasedFlashVID:
    """Compress a video as the release does before the language model.

    Args:
        features: (T, P, D) features.
        attention: (T, P) attention that each token received in the vision encoder.
        ratio: retention ratio, averaged over the layers of the language model.
        method: see :func:`select_diverse`.
        alpha: fraction of the tokens that are selected; the others are merged.
        tau: cosine similarity above which a token is merged into one of the previous frame.
        expansion: factor of the tokens before the language model, because it drops some of them itself.
        do_segment: divide the video into segments; see :func:`flashvid_segments` for the other parameters.

    Raises:
        InputError: ``tau`` is 1 or more, where the release divides by 0.
    """
    frames, p, _ = features.shape
    budget = math.ceil(p * ratio * expansion)
    selected = math.ceil(alpha * budget)
    if tau >= 1 and budget > selected:
        raise InputError(f"flashvid: the release cannot merge with a threshold of 1 or more, got {tau}")
    lengths = flashvid_segments(features.float().mean(1), cut, min_segments, complementary) if do_segment else [frames]
    tokens, index, anchors, start = [], [], [], 0
    for length in lengths:
        part = slice(start, start + length)
        segment = _compress_segment(features[part].float(), attention[part], selected, budget - selected, tau, method)
        offset = start * p
        tokens.append(segment[0])
        index.append(segment[1] + offset)
        anchors.append(torch.where(segment[2] < 0, -1, segment[2] + offset))
        start += length
    positions, order = torch.sort(torch.cat(index), stable=True)
    return ReleasedFlashVID(lengths, torch.cat(tokens)[order], positions, torch.cat(anchors))


def _compress_segment(
    x: Tensor, attention: Tensor, selected: int, merged: int, tau: float, method: Selection
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, positions and anchors of a segment, whose positions start at 0."""
    frames, p, width = x.shape
    rows = select_diverse(x, attention, selected, method)
    free = torch.ones(frames, p, dtype=torch.bool, device=x.device).scatter_(1, rows, False)
    chosen = (torch.arange(frames, device=x.device)[:, None] * p + rows).flatten()
    anchor = torch.where(free.flatten(), -1, torch.arange(frames * p, device=x.device))
    if merged == 0 or frames == 0:
        return x.reshape(-1, width)[chosen], chosen, anchor
    if frames > 1:
        x, parent = merge_trees(x, free, tau, (selected + merged) * frames)
        left, root = free & (parent < 0).reshape(frames, p), tree_roots(parent)
    else:  # the selected tokens are clustered, too
        left, root = torch.ones_like(free), torch.arange(p, device=x.device)
    tokens, centres, label = merge_spatially(x, left, merged * frames)
    flat, merges = free.flatten(), label[root] >= 0
    anchor = torch.where(flat & merges, centres[label[root]] if len(centres) else anchor, anchor)
    return torch.cat([x.reshape(-1, width)[chosen], tokens]), torch.cat([chosen, centres]), anchor


def flashvid_segments(
    frame_features: Tensor, cut: float = 0.9, min_segments: int = 8, complementary: bool = True
) -> list[int]:
    """Return the number of frames of each segment; segments end where neighbouring frames are unlike.

    Args:
        frame_features: (T, D) mean tokens of the frames.
        cut: cosine similarity of frames below which a segment ends.
        min_segments: number of segments to reach with the least similar of the other frames.
        complementary: whether to add those. If there are too few frames, the release repeats ends, so that some
            segments are empty.
    """
    unit = normalize(frame_features, FLOOR)
    similarity = (unit[:-1] * unit[1:]).sum(-1)
    ends = (similarity < cut).nonzero()[:, 0]
    missing = min(min_segments - 1 - len(ends), len(similarity))
    if complementary and missing > 0:
        similarity[ends] = 1.0
        more = torch.sort(similarity, stable=True).indices[:missing]
        ends = torch.cat([ends, more]).sort().values
    last = torch.tensor([len(unit) - 1], device=ends.device)
    return torch.diff(torch.cat([ends, last]), prepend=last.new_tensor([-1])).tolist()


def select_diverse(features: Tensor, attention: Tensor, count: int, method: Selection) -> Tensor:
    """Select tokens of each frame of a segment that are far from each other and much attended (ADTS).

    Args:
        features: (T, P, D) features.
        attention: (T, P) received attention.
        count: number of tokens of each frame.
        method: "attn_div" multiplies the distance to a candidate with its attention; "attn_div_v2" also with its inner
            product with the mean of the segment, which may be negative, so that a token may be selected twice; "div"
            uses distances alone, "attn" attention alone.

    Returns:
        (T, count) int64 places, ascending.
    """
    frames, p, _ = features.shape
    if count == 0 or frames == 0:
        return torch.zeros(frames, count, dtype=torch.long, device=features.device)
    if method == "attn":
        return torch.sort(attention, dim=1, descending=True, stable=True).indices[:, :count].sort(1).values
    x = features.float()
    unit = normalize(x.flatten(0, 1), FLOOR).reshape(x.shape)
    distance = 1 - unit @ unit.transpose(1, 2)
    if method != "div":
        distance = distance * (attention.float() * 1e6)[:, None]
    if method == "attn_div_v2":
        distance = distance * (x @ x.mean((0, 1)))[:, None]
    second = torch.sort(distance, dim=1).values[:, min(1, p - 1)]
    picks, rows, nearest = [second.argmax(1)], torch.arange(frames, device=x.device), None
    while len(picks) < count:
        away = distance[rows, picks[-1]]
        nearest = away if nearest is None else torch.minimum(nearest, away)
        if method != "attn_div_v2":
            nearest[rows[:, None], torch.stack(picks, 1)] = -1
        picks.append(nearest.argmax(1))
    return torch.stack(picks, 1).sort(1).values


def merge_trees(features: Tensor, free: Tensor, tau: float, at_least: int) -> tuple[Tensor, Tensor]:
    """Merge tokens into the most similar one of the previous frame (TSTM).

    The sum over a tree is divided by one more than the number of direct children of its root, not by its size, so the
    norms of tokens that persist grow.

    Args:
        features: (T, P, D) features of a segment.
        free: (T, P) bool, the tokens that may be merged.
        tau: cosine similarity above which a token is merged.
        at_least: number of tokens that are not merged, selected ones included; a higher threshold is used where
            ``tau`` would leave fewer.

    Returns:
        (T, P, D) features in which trees are merged into their roots, and (T*P,) int64 parent of each merged token, -1
        for others.
    """
    frames, p, _ = features.shape
    best, parent = _most_similar(normalize(features.flatten(0, 1), FLOOR).reshape(features.shape), free)
    merged = best > tau
    if frames * p - int(merged.sum()) < at_least:
        highest = best.flatten().sort(descending=True).values
        spare = frames * p - at_least  # not positive: the release fails; here nothing is merged
        merged = best > (highest[spare - 1].clamp(min=-1 + 1e-6) if spare > 0 else torch.inf)
    out, children = features.clone(), torch.zeros(frames, p, device=features.device)
    for t in range(frames - 1, -1, -1):
        out[t] /= torch.where(merged[t], 1, 1 + children[t])[:, None]
        if t > 0:
            source = merged[t].nonzero()[:, 0]
            out[t - 1].index_add_(0, parent[t, source], out[t, source])
            children[t - 1].index_add_(0, parent[t, source], torch.ones_like(source, dtype=children.dtype))
    first = torch.arange(frames, device=features.device)[:, None] * p - p
    return out, torch.where(merged, first + parent, -1).flatten()


def _most_similar(unit: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (T, P) highest similarity with a free token of the previous frame, and the place of that token."""
    best = torch.full(free.shape, -1.0, device=unit.device)
    place = torch.zeros(free.shape, dtype=torch.long, device=unit.device)
    for t in range(1, len(unit)):
        cosine = unit[t] @ unit[t - 1].T
        cosine = cosine.masked_fill(~(free[t][:, None] & free[t - 1]), -1)
        best[t], place[t] = cosine.max(1)
    return best, place


def merge_spatially(features: Tensor, left: Tensor, budget: int) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce the tokens that are left of a segment by clustering those of each frame.

    Args:
        features: (T, P, D) features.
        left: (T, P) bool, the tokens that are left.
        budget: number of tokens to aim at; each frame rounds up.

    Returns:
        (K, D) mean tokens and (K,) int64 positions of their centres, frame by frame; and the (T*P,) int64 row of each
        token, -1 for those that are not left or dropped.
    """
    p, ratio = left.shape[1], budget / max(int(left.sum()), 1)
    label = torch.full((left.numel(),), -1, device=features.device)
    tokens, centres, total = [], [], 0
    for t, frame in enumerate(left):
        rows = frame.nonzero()[:, 0]
        x, count = features[t, rows], math.ceil(len(rows) * ratio) if ratio < 1 else len(rows)
        if count == 0:
            continue
        groups, middle = torch.arange(len(rows), device=rows.device), torch.arange(len(rows), device=rows.device)
        if ratio < 1:
            groups, middle = (part[0] for part in cluster_density_peaks(x[None], count))
        mean = torch.zeros(count, x.shape[1], device=x.device).index_add_(0, groups, x)
        tokens.append(mean / torch.bincount(groups, minlength=count)[:, None])
        centres.append(t * p + rows[middle])
        label[t * p + rows] = total + groups
        total += count
    if not tokens:
        return features[:0, 0], label[:0], label
    return torch.cat(tokens), torch.cat(centres), label


def cluster_density_peaks(
    features: Tensor, clusters: int, valid: Tensor | None = None, neighbours: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the (B, n) cluster of each point and the (B, clusters) centres, in order of their scores (DPC-kNN).

    Unlike :func:`~framefold.adapters.ops.density_peaks.density_peaks`, this is the arithmetic of the release, in which
    the densities of points that are far from all others round to 0.

    Args:
        features: (B, n, D) points of each set.
        clusters: number of clusters, at most n.
        valid: (B, n) bool, the points that may be centres; None: all.
        neighbours: nearest points that the density of a point takes into account; None: seven, or as many as there are
            clusters if these are fewer.
    """
    distance = torch.cdist(features.float(), features.float()) / features.shape[-1] ** 0.5
    if valid is not None:
        distance = torch.where(valid[:, None], distance, distance.max() + 1)
    count = neighbours or min(clusters, NEIGHBOURS)
    density = (-distance.topk(count, dim=-1, largest=False).values.square().mean(-1)).exp()
    if valid is not None:
        density = density * valid
    largest = distance.flatten(1).amax(1)[:, None, None]
    away = torch.where(density[:, None] > density[:, :, None], distance, largest).amin(-1)
    centres = torch.sort(away * density, dim=1, descending=True, stable=True).indices[:, :clusters]
    groups = distance.gather(2, centres[:, None].expand(-1, distance.shape[1], -1)).argmin(2)
    return groups.scatter_(1, centres, torch.arange(clusters, device=centres.device).expand_as(centres)), centres


def kept_in_llm(attention: Tensor, start: int, length: int, ratio: float) -> Tensor:
    """Return the rows of the sequence, ascending, that the release keeps inside the language model.

    Args:
        attention: (heads, L) attention of the last token to all tokens in the layer before.
        start: first visual token.
        length: number of visual tokens.
        ratio: fraction of the visual tokens to keep, rounded up.
    """
    score = attention.mean(0)
    best = torch.sort(score[start : start + length], descending=True, stable=True).indices
    kept = torch.ones_like(score, dtype=torch.bool)
    kept[start + best[math.ceil(length * ratio) :]] = False
    return kept.nonzero()[:, 0]
