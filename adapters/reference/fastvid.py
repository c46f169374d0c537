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
        context_ratio: part of them that is merged.
        stride: distance of the frames of a segment that have targets.
        beta: least weight of a target in its mean.
        min_segments: least number of segments.
        cut: similarity of neighbouring frames below which a segment ends.
        still: similarity of neighbouring frames at or above which only the last one gets tokens ("qwen").
    """

    ratio: float
    context_ratio: float = 0.4
    stride: int = 4
    beta: float = 0.6
    min_segments: int = 8
    cut: float = 0.9
    still: float = 0.95


@dataclass(frozen=True)
class FastVIDTokens:
    """Tokens that the release returns.

    Attributes:
        lengths: number of frames of each segment.
        parts: numbers of frames of consecutive parts of the video: segments, or single frames whose tokens are not
            merged into targets of other frames.
        targets: int64 rows of the targets of each part.
        index: (K,) int64 rows, ascending.
        tokens: (K, D).
    """

    lengths: list[int]
    parts: list[int]
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
        context, anchors = int(tokens * settings.context_ratio), anchor_frames(frames, settings.stride)
        return dict.fromkeys(frames, tokens - context), dict.fromkeys(anchors, context * n // len(anchors))
    context = int(tokens * n * settings.context_ratio)
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
        InputError: the release fails. There are fewer frames than segments; a frame whose targets are searched
            ("onevision": any) has fewer than four tokens that are not salient, or fewer than targets; "onevision" has
            no targets for a frame; "video" and "qwen" find one segment only, or no salient tokens or no targets in one.
    """
    if len(x) < settings.min_segments:
        raise _refusal(f"needs at least {settings.min_segments} frames, the number of segments; got {len(x)}")
    similarity = torch.cosine_similarity(frames[1:].float(), frames[:-1].float(), dim=-1)
    lengths = segment_lengths(similarity, settings.min_segments, settings.cut)
    if form != "onevision" and len(lengths) == 1:
        raise _refusal("needs at least two segments")
    parts, all_targets, rows, values = [], [], [], []
    for segment in torch.arange(len(x)).split(lengths):
        salient, targets = released_counts(segment.tolist(), similarity.tolist(), x.shape[1], form, settings)
        _refuse_counts(salient, targets, x.shape[1], form)
        for part in _merged_together(segment.tolist(), targets, x.shape[1], form, settings):
            kept, chosen = _choose(x, attention, part, salient, targets)
            parts.append(len(part))
            all_targets.append(torch.cat(chosen))
            free = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            free[part] = True
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
    return FastVIDTokens(lengths, parts, all_targets, index, torch.cat(values)[order])


def _refusal(reason: str) -> InputError:
    return InputError(f"fastvid: variant='official' {reason}: use variant='exact', or other parameters")


def _refuse_counts(salient: dict[int, int], targets: dict[int, int], per_frame: int, form: Form) -> None:
    """Refuse the numbers of tokens of a segment on which the release fails."""
    if form == "onevision":
        if not all(targets.values()):
            raise _refusal("needs a target in every anchor frame")
        searched = {t: targets.get(t, 0) for t in salient}
    else:
        if not (any(salient.values()) and any(targets.values())):
            raise _refusal("needs a salient token and a target in every segment")
        searched = {t: count for t, count in targets.items() if count}
    if any(per_frame - salient.get(t, 0) < max(NEIGHBOURS, count) for t, count in searched.items()):
        raise _refusal(f"needs {NEIGHBOURS} tokens beside the salient ones of a frame, and as many as targets")


def _merged_together(
    segment: list[int], targets: dict[int, int], per_frame: int, form: Form, settings: FastVIDSettings
) -> list[list[int]]:
    """Return the frames whose tokens are merged into each other.

    These are all of the segment. In "onevision" it is each frame alone if anchor frames have no more targets than a
    segment of one frame.
    """
    alone = int(int(per_frame * settings.ratio) * settings.context_ratio)
    apart = form == "onevision" and targets[segment[-1]] == alone
    return [[t] for t in segment] if apart else [segment]


@torch.no_grad()
def _choose(
    x: Tensor, attention: Tensor, frames: list[int], salient: dict[int, int], targets: dict[int, int]
) -> tuple[Tensor, list[Tensor]]:
    """Return the rows of the salient tokens of the frames, and those of the targets of each anchor frame of them."""
    per_frame = x.shape[1]
    order = {t: torch.sort(attention[t], descending=True, stable=True).indices for t in frames}
    kept = {t: order[t][: salient.get(t, 0)] for t in frames}
    chosen: list[Tensor] = [order[frames[0]][:0]]
    for t in frames:
        if not targets.get(t):
            continue
        free = torch.ones(per_frame, dtype=torch.bool, device=x.device)
        free[kept[t]] = False
        rest = free.nonzero()[:, 0]
        score = density_peaks(scaled_distances(x[t, rest][None]), NEIGHBOURS)[0]
        chosen.append(rest[torch.sort(score, descending=True, stable=True).indices[: targets[t]]] + t * per_frame)
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
