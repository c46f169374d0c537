"""FastVID: attended tokens of each frame, and density peaks of each segment that the others join (arXiv 2503.11187)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.merger import merge_at, merge_at_targets
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import even_counts, share
from framefold.adapters.ops.density_peaks import density_peaks, scaled_distances
from framefold.adapters.ops.segments import first_frames
from framefold.adapters.ops.selection import rank_in_frame
from framefold.adapters.ops.similarity import TINY, normalize, rescale_if_extreme
from framefold.adapters.ops.targets import nearest_targets, sum_joined
from framefold.adapters.reference.fastvid import (
    NEIGHBOURS,
    FastVIDSettings,
    Form,
    anchor_frames,
    released_tokens,
    segment_lengths,
)
from framefold.errors import ConfigError, InputError


class FastVID(Compressor):
    """Keeps the most attended tokens of each frame, and merges the others into targets of their segment. Training-free.

    Rule for k tokens:

    1. The video is cut at its min(``min_segments``, T) - 1 least similar neighbouring frames, and where their
       similarity is less than ``cut`` (cosine of the means of their tokens).
    2. k - round(``context_ratio`` * k) salient tokens are kept unchanged: those with the highest attention received in
       the vision encoder, equally many of each frame.
    3. The last frame of a segment and every ``stride``-th before it are anchor frames. Segments share the other tokens
       of k, the targets, in proportion to their tokens that are not salient, and anchor frames share those of their
       segment evenly. If anchor frames have too few tokens, the stride is lowered.
    4. The targets of a frame are its density peaks among tokens that are not salient: tokens with many similar ones
       nearby and none denser.
    5. Every other token joins the most similar target of its segment. A target that n tokens join becomes w * target +
       (1 - w) * mean of the n, where w = max(1 / (n + 1), ``beta``). Tokens of a segment without targets are dropped.

    Ties go to the lower index.

    ``official`` follows the release in one of its forms: "onevision" (LLaVA-OneVision), "video" (LLaVA-Video) or "qwen"
    (Qwen2.5-VL). Each keeps about int(P * ratio) tokens of each frame and rounds in its own way. A token is merged into
    one target of every anchor frame of its segment; ``assign`` names the most similar of them. Frame means take the
    place of the pooled output of the encoder. Random noise of the densities is omitted.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        context_ratio: part of the kept tokens that are targets (d in the paper).
        stride: distance of anchor frames (p).
        beta: least weight of a target in its mean.
        cut: similarity below which a segment ends (tau_s); the release for Qwen2.5-VL uses 0.84.
        min_segments: least number of segments (c).
        form: form of the release that ``official`` follows.
        still: similarity of neighbouring frames at or above which "qwen" gives tokens to the last one only.

    Raises:
        ConfigError: an unknown variant or form, or a parameter is out of range.
        InputError: ``official`` on videos on which the release fails: fewer frames than ``min_segments``, fewer than
            four tokens beside the salient ones of a frame, or too few tokens for salient ones and targets of each
            segment.
    """

    name = "fastvid"
    paper = "FastVID, arXiv 2503.11187"
    keeps = "tokens that receive the most attention, and density peaks of segments blended with the others"
    cost = "one product of each token with the targets of its segment, P * P * D in each anchor frame, and one mean"
    licence = "MIT"
    deviations = (
        "spends the remainders of all divisions; a token joins one target of its segment instead of one of each "
        "anchor frame; accepts videos shorter than the number of segments; no random noise in densities"
    )
    needs_attention = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        context_ratio: float = 0.4,
        stride: int = 4,
        beta: float = 0.6,
        cut: float = 0.9,
        min_segments: int = 8,
        form: Form = "onevision",
        still: float = 0.95,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official") or form not in get_args(Form):
            raise ConfigError(f"fastvid: unknown option in {variant=}, {form=}")
        if not (0 <= context_ratio <= 1 and 0 <= beta <= 1 and stride >= 1 and min_segments >= 1):
            raise ConfigError(f"fastvid: out of range: {context_ratio=}, {beta=}, {stride=} or {min_segments=}")
        self.variant, self.context_ratio, self.stride, self.beta = variant, context_ratio, stride, beta
        self.cut, self.min_segments, self.form, self.still = cut, min_segments, form, still
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if not self.exact_budget:
            with torch.autocast(video.features.device.type, enabled=False):
                return self.compress_official(video, k)
        if k >= len(video):
            return video
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            x = rescale_if_extreme(video.as_grid().flatten(1, 2))
            lengths = self.lengths(x)
            salient = self.salient(video, k - round(self.context_ratio * k))
            targets = self.targets(x, ~salient, lengths, round(self.context_ratio * k))
            kept, rows = salient.reshape(-1).nonzero()[:, 0], torch.cat(targets)
            join = nearest_targets(x, _part_of_frame(lengths), targets)
            join[kept] = join[rows] = -1
        own = video.features[rows]
        others, count = sum_joined(video.as_grid().flatten(1, 2), join, len(rows))
        weight = (1 / (count + 1)).clamp(min=self.beta)  # 1 if no token joins
        merged = torch.addcmul(others * ((1 - weight) / count.clamp(min=1)), weight, own)
        return merge_at_targets(video, kept, rows, join, merged)

    def lengths(self, x: Tensor) -> list[int]:
        """Return the numbers of frames of the segments of a (T, P, D) video."""
        means = _frame_directions(x)
        return segment_lengths((means[1:] * means[:-1]).sum(-1), min(self.min_segments, len(x)), self.cut)

    def events(self, video: VideoTokens) -> Tensor:
        """Return (N,) bool, the frames whose mean is unlike that of the previous one (``cut``)."""
        x = rescale_if_extreme(video.as_grid().flatten(1, 2))
        means = _frame_directions(x.detach())
        similarity = (means * means.roll(1, 0)).sum(-1)
        return first_frames(similarity < self.cut, video.per_frame)

    def salient(self, video: VideoTokens, count: int) -> Tensor:
        """Return (T, P) bool, the given number of tokens of highest attention, equally many of each frame."""
        attention = video.attention.reshape(video.grid[0], -1)  # type: ignore[union-attr]
        return rank_in_frame(-attention) < even_counts(count, len(attention), attention.device)[:, None]

    def targets(self, x: Tensor, free: Tensor, lengths: list[int], count: int) -> list[Tensor]:
        """Return the rows of the targets of each segment, ``count`` in all.

        Args:
            x: (T, P, D) features.
            free: (T, P) bool, tokens that are not salient, at least ``count``.
            lengths: numbers of frames of the segments.
            count: number of targets.
        """
        segments = [part.tolist() for part in torch.arange(len(x)).split(lengths)]
        left = free.sum(1).cpu()
        for stride in range(self.stride, 0, -1):
            anchors = [anchor_frames(frames, stride)[::-1] for frames in segments]
            caps = torch.stack([left[frames].sum() for frames in anchors])
            if int(caps.sum()) >= count:
                break
        weights = torch.stack([left[frames].sum() for frames in segments])
        rows = []
        for frames, own in zip(anchors, share(count, weights, caps).tolist(), strict=True):
            counts = share(own, torch.ones(len(frames)), left[frames]).tolist()
            rows.append(torch.cat([_peaks(x, free, t, n) for t, n in zip(frames, counts, strict=True)]))
        return rows

    def compress_official(self, video: VideoTokens, k: int) -> VideoTokens:
        """Return the tokens of the release.

        Raises:
            InputError: the release fails on this video, or keeps no token of a frame.
        """
        ratio = self.budget_ratio(k, len(video))
        if int(video.per_frame * ratio) < 1:
            raise InputError(f"fastvid: variant='official' keeps no token of a frame at a ratio of {ratio}: raise it")
        original = video.as_grid().flatten(1, 2)
        x = rescale_if_extreme(original)
        settings = FastVIDSettings(
            ratio, self.context_ratio, self.stride, self.beta, self.min_segments, self.cut, self.still
        )
        attention = video.attention.reshape(x.shape[:2])  # type: ignore[union-attr]
        out = released_tokens(x, x.float().mean(1), attention, self.form, settings)
        join = nearest_targets(x, _part_of_frame(out.parts), out.targets)
        number = torch.searchsorted(out.index, torch.cat([*out.targets, out.index[:1]]))
        groups = torch.where(join < 0, -1, number[join])
        groups[out.index] = torch.arange(len(out.index), device=groups.device)
        scale = original.detach().abs().max().double() / x.detach().abs().max().double()
        return merge_at(video, out.index, groups, out.tokens if x is original else out.tokens.double() * scale)


def _frame_directions(x: Tensor) -> Tensor:
    """Return the (T, D) normalized means of the frames of a (T, P, D) video."""
    return normalize(torch.stack([frame.float().mean(0) for frame in x]), TINY)


def _part_of_frame(lengths: list[int]) -> list[int]:
    return [part for part, length in enumerate(lengths) for _ in range(length)]


def _peaks(x: Tensor, free: Tensor, t: int, count: int) -> Tensor:
    """Return the rows of the given number of density peaks among the free tokens of frame t of a video."""
    rest = free[t].nonzero()[:, 0]
    if count < len(rest) and count:
        score = density_peaks(scaled_distances(x[t, rest].float()[None]), NEIGHBOURS)[0]
        rest = rest[torch.sort(score, descending=True, stable=True).indices]
    return rest[:count] + t * x.shape[1]
