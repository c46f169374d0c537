"""FlashVID: keep attended, distinct tokens of each frame, and merge the others over time (arXiv 2602.08024).

Dimensions: T frames of P tokens, N = T*P, D width; b frames of a block.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from framefold.adapters.base.merger import Merger
from framefold.adapters.base.prune_after_layer import PruneAfterLayer, PruneToRatio
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import even_counts, share
from framefold.adapters.ops.density_peaks import cluster_sets
from framefold.adapters.ops.links import strongest_links, tree_groups
from framefold.adapters.ops.max_min import SAME, max_min_of_cosines
from framefold.adapters.ops.segments import first_frames, segment_mean, segment_sum
from framefold.adapters.ops.selection import rank_in_group
from framefold.adapters.ops.similarity import TINY, normalize, rescale_if_extreme
from framefold.adapters.reference.flashvid import flashvid_tokens
from framefold.errors import ConfigError

Distance = Literal["attn_div", "attn_div_v2", "div"]

NEIGHBOURS = 7  # largest number that the density of a point takes into account

BLOCK_SIZE = 5 * 2**19  # largest number of similarities that are computed at once


class FlashVID(Merger):
    """Keeps attended, distinct tokens of each frame, and merges the others over time and space. Training-free.

    Rule for exactly k tokens before the language model:

    1. round(alpha * k) tokens are kept unchanged, equally many of each frame, give or take one. In a frame, the first
       is the token farthest from its nearest other one; then, repeatedly, the token farthest from those kept so far.
       Distances 1 - cos are multiplied by the attention that the candidate received (``selection``).
    2. The video is cut where the means of neighbouring frames have a cosine similarity below ``cut``.
    3. Each further token may be linked to the most similar such token of the previous frame, not across a cut, if their
       cosine similarity is above ``tau``. The most similar links are made, until k groups are left. A group is a tree
       of linked tokens.
    4. If more groups are left, each frame gets a share of the budget, in proportion to the groups that begin in it, but
       at least one if there is one for every frame with groups, and clusters the means of these groups (DPC-kNN with up
       to 7 neighbours). Frames with a share of 0 drop them.

    A token of the output is the mean of all tokens of its group, each counted once. Ties go to the lower index.
    Similarities are fp32.

    ``variant="official"`` is the release before the language model,
    :func:`~framefold.adapters.reference.flashvid.flashvid_tokens`. A retention ratio r stands for about 1.25 r of the
    tokens, because the release drops more of them in the language model. If two of its tokens have the same position,
    which happens in segments of one frame, their mean is returned.

    ``stage_2`` adds the pruning inside the language model: after the attention of ``layer``, the tokens that the
    prompt's last token attends to most stay. The budget is then the mean over the layers: ``exact`` keeps ``expansion``
    times the budget by the rule above, and as many after the layer as the budget then allows; ``official`` keeps
    ``keep_ratio`` of the tokens, whatever the number of layers.

    Args:
        budget: retention ratio or tokens per video.
        variant: "exact" for the rule above, "official" for the release.
        alpha: fraction of the budget that is kept unchanged, in [0, 1].
        tau: cosine similarity above which tokens are linked, in [-1, 1].
        cut: cosine similarity of frames below which the video is cut, in [-1, 1].
        selection: "attn_div" multiplies distances by attention; "attn_div_v2" also by the inner product of the
            candidate with the mean of its segment, if it is positive; "div" uses distances alone and needs no
            attention.
        min_segments: least number of segments, only for official: 8 in the scripts for LLaVA, 4 for Qwen.
        expansion: number of tokens that enter the language model, relative to the budget; only for official and with
            ``stage_2``, and then at least 1 for exact.
        stage_2: also prune inside the language model.
        layer: last layer that sees all tokens that enter, from 0, in a language model of 28 layers or more; with fewer
            layers, the same share of them does. 27 in the script for Qwen3-VL.
        keep_ratio: fraction of the tokens that stay after it, in (0, 1], only for official; 0.1 in the script for
            Qwen3-VL.

    Raises:
        ConfigError: a parameter is unknown or out of range.
        InputError: official with a ``tau`` of 1, where the release fails.
    """

    name = "flashvid"
    paper = "FlashVID, arXiv 2602.08024"
    keeps = "attended, distinct tokens of each frame, and means of the others over time and space"
    cost = "cosine similarities within each frame and with the previous frame: 2 N P D"
    licence = "MIT"
    deviations = (
        "an exact budget for the whole video instead of thresholds; no least number of segments; means count every "
        "token of a tree once, where the release divides by the direct children of the root; kept tokens of segments "
        "of one frame are not clustered again"
    )
    needs_attention = True

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        alpha: float = 0.7,
        tau: float = 0.8,
        cut: float = 0.9,
        selection: Distance = "attn_div",
        min_segments: int = 8,
        expansion: float = 1.25,
        stage_2: bool = False,
        layer: int = 19,
        keep_ratio: float = 0.3,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official") or selection not in get_args(Distance):
            raise ConfigError(
                f"flashvid: variant must be 'exact' or 'official', selection one of {get_args(Distance)}: "
                f"{variant!r}, {selection!r}"
            )
        if not (0 <= alpha <= 1 and -1 <= tau <= 1 and -1 <= cut <= 1 and min_segments >= 1 and expansion > 0):
            raise ConfigError(f"flashvid: out of range: {alpha=}, {tau=}, {cut=}, {min_segments=}, {expansion=}")
        least = 1 if stage_2 and variant == "exact" else 0
        if not (expansion >= least and layer >= 0 and 0 < keep_ratio <= 1):
            raise ConfigError(f"flashvid: out of range: {expansion=}, {layer=}, {keep_ratio=}")
        self.variant, self.selection, self.min_segments, self.expansion = variant, selection, min_segments, expansion
        self.alpha, self.tau, self.cut = alpha, tau, cut
        self.exact_budget, self.needs_attention = variant == "exact", alpha > 0 and selection != "div"
        self.stage_2, self.layer, self.keep_ratio = stage_2, layer, keep_ratio
        if stage_2:
            self.query_aware = True  # type: ignore[misc]
            self.in_llm = PruneAfterLayer(layer, expansion) if self.exact_budget else PruneToRatio(layer, keep_ratio)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        with torch.autocast(video.features.device.type, enabled=False):
            return super().compress(video, k, query) if self.exact_budget else self.released(video, k)

    @torch.no_grad()
    def events(self, video: VideoTokens) -> Tensor:
        """Return (N,) bool, the frames whose mean is unlike that of the previous one (``cut``)."""
        with torch.autocast(video.features.device.type, enabled=False):
            means = frame_means(rescale_if_extreme(video.as_grid().flatten(1, 2)))
        return first_frames(self.begins(means), video.per_frame)

    def begins(self, means: Tensor) -> Tensor:
        """Return (T,) bool, whether a segment begins at each frame, given the (T, D) means of the frames."""
        unit = normalize(means, 1e-15)
        out = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
        out[1:] = (unit[1:] * unit[:-1]).sum(-1) < self.cut
        return out

    @torch.no_grad()
    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        n, frames = len(video), video.grid[0]
        if k == n:
            return torch.arange(n, device=video.features.device)
        x = rescale_if_extreme(video.as_grid().flatten(1, 2))
        means = frame_means(x)
        begins = self.begins(means)
        selected = round(self.alpha * k)
        counts = even_counts(selected, frames, x.device)
        chosen, parent, similarity = select_and_match(x, counts, self.weights(video, x, means, begins), k > selected)
        allowed = ~begins[:, None] & (similarity > self.tau)
        made = strongest_links(torch.where(allowed, parent, -1).flatten(), similarity.flatten(), n - k)
        tree = tree_groups(made)
        roots = (made < 0).nonzero()[:, 0]
        if len(roots) == k:
            return tree
        return merge_roots(x, tree, roots, chosen.flatten(), k)[tree]

    def attention(self, video: VideoTokens) -> Tensor:
        """Return the (T, P) fp32 attention that each token received; 1 if the parameters need none."""
        shape = video.grid[0], video.per_frame
        if not self.needs_attention or video.attention is None:
            return torch.ones(shape, device=video.features.device)
        return video.attention.float().reshape(shape)

    def weights(self, video: VideoTokens, x: Tensor, means: Tensor, begins: Tensor) -> Tensor:
        """Return the (T, P) fp32 factors of the distances to each token."""
        attention = self.attention(video)
        attention = attention / attention.amax().clamp_min(torch.finfo(torch.float32).tiny)
        if self.selection != "attn_div_v2":
            return attention
        segment = begins.cumsum(0) - 1
        centre = segment_mean(means, torch.ones_like(segment), segment, int(segment[-1]) + 1)[segment]
        relevance = torch.stack([frame.float() @ own for frame, own in zip(x, centre, strict=True)])
        return attention * relevance.clamp_min(0)

    def released(self, video: VideoTokens, k: int) -> VideoTokens:
        """Return the tokens of the release; tokens at the same position are replaced with their mean."""
        ratio = self.budget_ratio(k, len(video))
        x = rescale_if_extreme(video.as_grid().flatten(1, 2))
        out = flashvid_tokens(
            x, self.attention(video), ratio, method=self.selection, alpha=self.alpha, tau=self.tau,
            cut=self.cut, min_segments=self.min_segments, expansion=self.expansion,
        )  # fmt: skip
        index, rows = torch.unique(out.index, return_inverse=True)
        features = segment_mean(out.tokens, torch.ones_like(rows), rows, len(index)).to(video.features.dtype)
        if largest := float(x.detach().abs().amax()):  # the factor is a power of two, 1 unless features are extreme
            features = features * (float(video.features.detach().abs().amax()) / largest)
        assign = torch.where(out.anchor < 0, -1, torch.searchsorted(index, out.anchor))
        size = segment_sum(torch.ones_like(assign), assign, len(index))
        return replace(video, features=features, index=index, size=size, assign=assign)


def frame_means(video: Tensor) -> Tensor:
    """Return the (T, D) fp32 means of the tokens of frames (T, P, D), by products, which are faster than sums."""
    weights = torch.full(video.shape[1:2], 1 / video.shape[1], device=video.device)
    return torch.stack([weights @ frame.float() for frame in video])


def select_and_match(video: Tensor, counts: Tensor, weight: Tensor, match: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Select tokens of each frame, and find for each other one the most similar such token of the previous frame.

    Args:
        video: (T, P, D) features.
        counts: (T,) int64 number of tokens to select of each frame, at most P.
        weight: (T, P) factors >= 0 of the distances to each token.
        match: False leaves out the second step.

    Returns:
        (T, P) bool, the selected tokens; (T, P) int64 token of the previous frame, in the flattened video; and the
        (T, P) cosine similarity with it, -2 where there is none.
    """
    frames, p, _ = video.shape
    chosen = torch.zeros(frames, p, dtype=torch.bool, device=video.device)
    place, best = torch.zeros_like(chosen, dtype=torch.long), torch.full(chosen.shape, -2.0, device=video.device)
    select = bool(counts.any())
    size = min(max(BLOCK_SIZE // (2 * p * p), 1), frames)
    cosines = best.new_empty(size, p, (match + select) * p)  # with the previous frame, and within the frame
    for start in range(0, frames, size):
        part = slice(start, min(start + size, frames))
        block = cosines[: part.stop - start]
        write_cosines(video, start, match, select, block)
        if select:
            chosen[part] = max_min_of_cosines(block[..., match * p :], weight[part], counts[part])
        for t in range(max(start, 1), part.stop if match else 0):
            similar = block[t - start, :, :p].index_fill_(1, chosen[t - 1].nonzero()[:, 0], -2)
            best[t], place[t] = similar.clamp_(max=1 - SAME).max(-1)
    first = torch.arange(-1, frames - 1, device=video.device)[:, None] * p
    return chosen, first + place, best.masked_fill_(chosen, -2)


def write_cosines(video: Tensor, start: int, before: bool, within: bool, out: Tensor) -> None:
    """Compute cosine similarities of the tokens of consecutive frames; 0 for zero vectors.

    Args:
        video: (T, P, D) features.
        start: first of b frames.
        before: compare with the tokens of the previous frame, except in frame 0 of the video.
        within: compare with the tokens of the frame.
        out: (b, P, P or 2 P) buffer for the similarities with the previous frame, then within the frame.
    """
    first = max(start - 1, 0)
    x = video[first : start + len(out)].float()
    norm = torch.stack([torch.linalg.vector_norm(frame, dim=-1) for frame in x])
    inverse = torch.where(norm > TINY, 1 / norm, 0)
    for t, target in enumerate(out, start - first):
        compared = slice(max(t - before, 0), t + within)
        columns = target[:, target.shape[1] - inverse[compared].numel() :]
        torch.mm(x[t], x[compared].flatten(0, 1).T, out=columns)
        columns.mul_(inverse[t][:, None]).mul_(inverse[compared].flatten())


def merge_roots(video: Tensor, tree: Tensor, roots: Tensor, chosen: Tensor, k: int) -> Tensor:
    """Reduce trees to k groups: step 4 of :class:`FlashVID`.

    Args:
        video: (T, P, D) features.
        tree: (N,) int64 tree of each token.
        roots: (R,) int64 first token of each tree.
        chosen: (N,) bool, the selected tokens, which are trees of their own and stay so.
        k: number of groups, less than R.

    Returns:
        (R,) int64 group of each tree in [-1, k), -1 for trees that are dropped.
    """
    frames, p, _ = video.shape
    kept, frame = chosen[roots], roots // p
    sizes = torch.bincount(frame[~kept], minlength=frames)
    total, least = k - int(kept.sum()), sizes.clamp(max=1)
    least = least if int(least.sum()) <= total else torch.zeros_like(least)
    counts = least + share(total - int(least.sum()), sizes, sizes - least)
    rank = rank_in_group((~kept).float(), frame)  # of a mergeable tree in its frame
    local = torch.minimum(rank, counts[frame] - 1)  # right where a frame has one group or as many as trees
    reduced = (counts > 1) & (counts < sizes)
    wanted = reduced[frame] & ~kept
    group = torch.where(wanted, wanted.cumsum(0) - 1, -1)[tree]
    means = segment_sum(video.flatten(0, 1), group, int(wanted.sum())).div_(torch.bincount(tree)[wanted][:, None])
    local[wanted] = cluster_sets(means, sizes[reduced], counts[reduced], NEIGHBOURS)
    first = counts.cumsum(0) - counts + int(kept.sum())
    label = torch.where(local < 0, -1, first[frame] + local)
    return torch.where(kept, kept.cumsum(0) - 1, label)
