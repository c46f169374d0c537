"""FastVID as released, in its three forms: for LLaVA-OneVision, LLaVA-Video and Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.ops.density_peaks import density_peaks, scaled_distances
from framefold.errors import InputError

Form = Literal["onevision", "video", "qwen"]

NEIGHBOURS = 4  # whose distances give the density of a token


@dataclass(frozen=True)
class FastVIDSettings:
    """Settings of the release.

    Attributes:
        ratio: tokens to keep of each frame.
        context: part of them that is merged.
        stride: every so many frames of a segment, one has targets.
        beta: least weight of a target in its mean.
        segments: least number of segments.
        cut: similarity of neighbouring frames below which a segment ends.
        still: similarity of neighbouring frames from which only the last one gets tokens ("qwen").
    """

    ratio: float
    context: float = 0.4
    stride: int = 4
    beta: float = 0.6
    segments: int = 8
    cut: float = 0.9
    still: float = 0.95


@dataclass(frozen=True)
class FastVIDTokens:
    """Tokens that the release returns.

    Attributes:
        lengths: number of frames of each segment.
        targets: int64 rows of the targets of each segment.
        index: (K,) int64 rows, ascending.
        tokens: (K, D).
    """

    lengths: list[int]
    targets: list[Tensor]
    index: Tensor
    tokens: Tensor


def segment_lengths(similarity: Tensor, segments: int, cut: float) -> list[int]:
    """Return the numbers of frames of the segments, which end at the least similar neighbours and at all below ``cut``.

    Args:
        similarity: (T - 1,) of neighbouring frames.
        segments: least number of segments, at most T.
        cut: similarity below which a segment ends.
    """
    ends = similarity < cut
    ends[torch.sort(similarity, stable=True).indices[: segments - 1]] = True
    last = torch.cat([ends.nonzero()[:, 0], torch.tensor([len(similarity)], device=ends.device)])
    return torch.diff(last, prepend=last.new_tensor([-1])).tolist()


def anchor_frames(frames: list[int], stride: int) -> list[int]:
    """Return the last of the frames and every ``stride``-th before it, last one first."""
    return frames[::-1][::stride]


def released_counts(
    frames: list[int], similarity: list[float], per_frame: int, form: Form, settings: FastVIDSettings
) -> tuple[dict[int, int], dict[int, int]]:
    """Return the salient tokens and the targets of the frames of a segment; absent frames have none.

    Args:
        frames: of the segment.
        similarity: of each frame of the video with the next one.
        per_frame: number of tokens P of a frame.
        form: of the release.
        settings: of the release.
    """
    tokens, n = int(per_frame * settings.ratio), len(frames)
    if form == "onevision":
        context, anchors = int(tokens * settings.context), anchor_frames(frames, settings.stride)
        return dict.fromkeys(frames, tokens - context), dict.fromkeys(anchors, context * n // len(anchors))
    context = int(tokens * n * settings.context)
    last = frames  # of each run of still frames
    if form == "qwen":
        context = max(context, 1)
        last = [t for t in frames if t == frames[-1] or similarity[t] < settings.still]
    salient = dict(zip(last, _deal(tokens * n - context, len(last)), strict=True))
    anchors = anchor_frames(last, settings.stride)
    targets = dict(zip(anchors, _deal(context, len(anchors)), strict=True))
    if form == "qwen" and n > 1:
        targets = {t: min(count, per_frame // 2) for t, count in targets.items()}
        salient = {t: min(count, per_frame - targets.get(t, 0)) for t, count in salient.items()}
    return salient, targets


def _deal(total: int, parts: int) -> list[int]:
    return [total // parts + (i < total % parts) for i in range(parts)]


def released_tokens(
    x: Tensor, frames: Tensor, attention: Tensor, form: Form, settings: FastVIDSettings
) -> FastVIDTokens:
    """Return the tokens of a video, without the noise that the release adds to densities.

    Args:
        x: (T, P, D) features; differentiable.
        frames: (T, Dg) vectors of the frames.
        attention: (T, P) attention received.
        form: of the release.
        settings: of the release.

    Raises:
        InputError: fewer frames than segments, or an anchor frame with fewer than four tokens that are not salient; the
            release fails too.
    """
    if len(x) < settings.segments:
        text = f"variant='official' needs at least {settings.segments} frames, the number of segments; got {len(x)}"
        raise InputError(f"fastvid: {text}: lower segments, or use variant='exact'")
    similarity = torch.cosine_similarity(frames[1:].float(), frames[:-1].float(), dim=-1)
    lengths = segment_lengths(similarity, settings.segments, settings.cut)
    all_targets, rows, values, first = [], [], [], 0
    for length in lengths:
        segment = list(range(first, first + length))
        first += length
        salient, targets = released_counts(segment, similarity.tolist(), x.shape[1], form, settings)
        kept, chosen = _choose(x, attention, salient, targets)
        all_targets.append(torch.cat(chosen))
        free = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        free[segment] = True
        free.view(-1)[kept] = False
        for own in chosen:
            joining = free.clone()
            if form != "onevision":
                joining.view(-1)[own] = False
            rows.append(own)
            values.append(_merge(x.flatten(0, 1), joining.view(-1).nonzero()[:, 0], own, settings.beta))
        rows.append(kept)
        values.append(x.flatten(0, 1)[kept].float())
    index, order = torch.cat(rows).sort()
    return FastVIDTokens(lengths, all_targets, index, torch.cat(values)[order])


@torch.no_grad()
def _choose(
    x: Tensor, attention: Tensor, salient: dict[int, int], targets: dict[int, int]
) -> tuple[Tensor, list[Tensor]]:
    """Return the rows of the salient tokens of a segment, and those of the targets of each anchor frame."""
    kept: dict[int, Tensor] = {}
    chosen: list[Tensor] = []
    per_frame = x.shape[1]
    for t, count in salient.items():
        kept[t] = torch.sort(attention[t], descending=True, stable=True).indices[:count]
    for t, count in targets.items():
        free = torch.ones(per_frame, dtype=torch.bool, device=x.device)
        free[kept[t]] = False
        rest = free.nonzero()[:, 0]
        if not count:
            chosen.append(rest[:0])
            continue
        if len(rest) < NEIGHBOURS:
            raise InputError(
                f"fastvid: variant='official' needs {NEIGHBOURS} tokens beside the salient ones of a frame"
            )
        score = density_peaks(scaled_distances(x[t, rest][None]), NEIGHBOURS)[0]
        chosen.append(rest[torch.sort(score, descending=True, stable=True).indices[:count]] + t * per_frame)
    return torch.cat([rows + t * per_frame for t, rows in kept.items()]), chosen


def _merge(x: Tensor, rows: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Return the (c, D) targets, blended with the mean of the rows that are most similar to each."""
    if not len(targets):
        return x.new_zeros(0, x.shape[1], dtype=torch.float32)
    members = x[rows].float()
    join = (members @ torch.nn.functional.normalize(x[targets].float(), dim=-1).T).argmax(1)
    count = torch.bincount(join, minlength=len(targets))[:, None]
    total = torch.zeros(len(targets), x.shape[1], device=x.device).index_add(0, join, members)
    weight = (1 / (count + 1)).clamp(min=beta)
    return weight * x[targets].float() + (1 - weight) * total / count.clamp(min=1)
