"""VisionZip: the most attended tokens, and contextual tokens that the others are merged into (arXiv 2412.04467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.merger import merge_at_targets
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import even_counts
from framefold.adapters.ops.partition import even_positions
from framefold.adapters.ops.selection import exact_topk, rank_in_frame
from framefold.adapters.ops.similarity import rescale_if_extreme
from framefold.adapters.ops.targets import nearest_targets, sum_joined
from framefold.adapters.reference.visionzip import zip_frame
from framefold.errors import ConfigError


class VisionZip(Compressor):
    """Keeps the most attended tokens, and merges the others into evenly spaced contextual tokens. Training-free.

    Rule for k tokens:

    1. With ``scope="frame"``, as in the paper, frames share k evenly; with ``scope="video"``, the video is one part.
    2. int(``attention_share`` * c) of the c tokens of a part are those with the highest attention received in the
       vision encoder, unchanged; the others, at least one, are evenly spaced among the tokens that are left.
    3. All tokens that are left join the most similar of the latter, by cosine, in their part; those of a part without
       any are dropped. A contextual token is the mean of its group.

    ``official`` follows the adaptation to video that papers compare with (in the release of HoliTom): round(k / T)
    tokens of each frame, at least one. Every n-th of the tokens left is contextual, so the last ones never are, and its
    value is a sum: the token itself plus the mean of those that join it. The release compares keys of the encoder; here
    features are compared.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        attention_share: fraction of the kept tokens that is selected by attention; 54 of 64 in the release.
        scope: "frame" or "video", see above; only for ``exact``.
        reduction: "mean", or "sum" for the values of the release; only for ``exact``.

    Raises:
        ConfigError: an unknown variant, scope or reduction, or a fraction outside [0, 1] (``official``: of 1 or more).
    """

    name = "visionzip"
    paper = "VisionZip, arXiv 2412.04467"
    keeps = "tokens that receive the most attention, and means of the others"
    cost = "one product of each token with the contextual tokens of its frame, and one mean"
    licence = "Apache-2.0"
    deviations = (
        "divides k tokens evenly among the frames instead of giving them equal numbers; spaces contextual tokens "
        "evenly to the end of a frame and makes them plain means; compares features instead of keys"
    )
    needs_attention = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        attention_share: float = 54 / 64,
        scope: Literal["frame", "video"] = "frame",
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official") or scope not in ("frame", "video") or reduction not in ("mean", "sum"):
            raise ConfigError(f"visionzip: unknown option in {variant=}, {scope=}, {reduction=}")
        if not 0 <= attention_share <= 1 or variant == "official" and attention_share == 1:
            raise ConfigError(
                f"visionzip: attention_share must be in [0, 1] (official: less than 1), got {attention_share}"
            )
        self.variant, self.attention_share, self.scope, self.reduction = variant, attention_share, scope, reduction
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if k >= len(video):
            return video
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            chosen = self.choose(video, k) if self.exact_budget else self.choose_official(video, k)
        return self.zip(video, chosen)

    def choose(self, video: VideoTokens, k: int) -> Chosen:
        """Choose dominant tokens and targets by the exact rule, and the target that each other token joins."""
        t = video.grid[0]
        attention = video.attention.reshape(t, -1)  # type: ignore[union-attr]
        if self.scope == "video":
            n = int(self.attention_share * k)
            mask = torch.zeros_like(attention, dtype=torch.bool)
            mask.view(-1)[exact_topk(attention.reshape(-1), n)] = True
            part, counts = [0] * t, [k - n]
        else:
            tokens = even_counts(k, t)
            dominant = (self.attention_share * tokens.double()).long()  # so that a part has a contextual token
            mask = rank_in_frame(-attention) < dominant.to(attention.device)[:, None]
            part, counts = list(range(t)), (tokens - dominant).tolist()
        targets = []
        rest = (~mask).reshape(len(counts), -1)
        for i, (left, count) in enumerate(zip(rest, counts, strict=True)):
            rows = left.nonzero()[:, 0]
            targets.append(rows[even_positions(len(rows), count, rows.device)] + i * rest.shape[1])
        join = nearest_targets(rescale_if_extreme(video.as_grid().flatten(1, 2)), part, targets)
        kept = mask.reshape(-1).nonzero()[:, 0]
        join[kept] = join[torch.cat(targets)] = -1
        return Chosen(kept, torch.cat(targets), join)

    def choose_official(self, video: VideoTokens, k: int) -> Chosen:
        """Choose as the release does, in each frame."""
        t, per_frame = video.grid[0], video.per_frame
        tokens = min(per_frame, max(1, round(k / t)))
        dominant = int(self.attention_share * tokens)
        frames = zip(video.attention.reshape(t, -1), video.as_grid().flatten(1, 2), strict=True)  # type: ignore[union-attr]
        zipped = [zip_frame(attention, x, dominant, tokens - dominant) for attention, x in frames]
        join = [torch.where(one.join < 0, -1, one.join + i * len(one.targets)) for i, one in enumerate(zipped)]
        return Chosen(
            torch.cat([one.dominant + i * per_frame for i, one in enumerate(zipped)]),
            torch.cat([one.targets + i * per_frame for i, one in enumerate(zipped)]),
            torch.cat(join),
        )

    def zip(self, video: VideoTokens, chosen: Chosen) -> VideoTokens:
        """Return the dominant tokens, and the contextual ones with the tokens that join them."""
        own = video.features[chosen.targets]
        others, count = sum_joined(video.as_grid().flatten(1, 2), chosen.join, len(own))
        if self.reduction == "sum" or not self.exact_budget:
            merged = own + others / count.clamp(min=1)
        else:
            merged = (own + others) / (count + 1)
        return merge_at_targets(video, chosen.dominant, chosen.targets, chosen.join, merged)


@dataclass(frozen=True)
class Chosen:
    """Tokens that are kept, and which others are merged into them.

    Attributes:
        dominant: (n,) int64 rows of tokens that are kept unchanged.
        targets: (C,) int64 rows of contextual tokens.
        join: (N,) int64 contextual token that each other token joins, -1 for none.
    """

    dominant: Tensor
    targets: Tensor
    join: Tensor
