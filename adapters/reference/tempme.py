"""Blocks of the released TempMe, which joins neighbouring frames inside a vision transformer (arXiv 2409.01156).

Dimensions: F frames or groups of frames of n tokens, class tokens first; D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .tome import tome_step

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class JoinedFrames:
    """Tokens between two blocks.

    Attributes:
        x: (F, n, D) tokens.
        size: (F, n, 1) number of tokens that each represents.
        class_tokens: number of class tokens of each group of frames.
    """

    x: Tensor
    size: Tensor
    class_tokens: int = 1

    def merged(self, merges: int, metric: Tensor) -> JoinedFrames:
        """Merge the most similar pairs of patch tokens."""
        x, size, _ = tome_step(self.x, self.size, metric, merges, self.class_tokens, by_index=True)
        return JoinedFrames(x, size, self.class_tokens)


def tempme_block(
    tokens: JoinedFrames,
    weights: Weights,
    heads: int,
    frames: int = 1,
    merges_at_joining: int = 0,
    merges_after_attention: int = 0,
    positions: bool = True,
) -> JoinedFrames:
    """Apply a block: join neighbouring frames, attend among their tokens, merge, and apply the feed-forward layer.

    Args:
        tokens: of the previous block.
        weights: of the block, by their names in the release.
        heads: number of attention heads.
        frames: number of neighbouring frames that are joined; 1 joins none.
        merges_at_joining: pairs to merge before attention, matched by their features.
        merges_after_attention: pairs to merge after attention, matched by their keys.
        positions: add the learned positions of frames, if pairs are merged at joining.
    """
    if frames > 1:
        metric = tokens = join_frames(tokens, frames)
        if merges_at_joining:
            if positions:
                tokens = _add_positions(tokens, weights["TVPt_Video_Positional_embedding"], frames)
            tokens = tokens.merged(merges_at_joining, metric.x)
    attended, keys = _attention(_norm(tokens.x, weights, "ln_1"), tokens.size, weights, heads)
    tokens = JoinedFrames(tokens.x + attended, tokens.size, tokens.class_tokens)
    if merges_after_attention:
        tokens = tokens.merged(merges_after_attention, keys)
    hidden = F.gelu(F.linear(_norm(tokens.x, weights, "ln_2"), weights["mlp.0.weight"], weights["mlp.0.bias"]))
    x = tokens.x + F.linear(hidden, weights["mlp.2.weight"], weights["mlp.2.bias"])
    return JoinedFrames(x, tokens.size, tokens.class_tokens)


def join_frames(tokens: JoinedFrames, frames: int) -> JoinedFrames:
    """Join each ``frames`` neighbouring groups: first the class tokens of all of them, then their patch tokens."""
    count = tokens.class_tokens

    def regroup(values: Tensor) -> Tensor:
        values = values.unflatten(0, (-1, frames))
        return torch.cat([values[:, :, :count].flatten(1, 2), values[:, :, count:].flatten(1, 2)], dim=1)

    return JoinedFrames(regroup(tokens.x), regroup(tokens.size), count * frames)


def _add_positions(tokens: JoinedFrames, table: Tensor, frames: int) -> JoinedFrames:
    """Add the position of its source frame to each token of joined groups; the table is (F * frames, 1, D)."""
    classes = tokens.class_tokens // frames
    patches = (tokens.x.shape[1] - tokens.class_tokens) // frames
    table = table.view(-1, frames, table.shape[-1])
    both = [table.repeat_interleave(classes, 1), table.repeat_interleave(patches, 1)]
    return JoinedFrames(tokens.x + torch.cat(both, dim=1), tokens.size, tokens.class_tokens)


def _attention(x: Tensor, size: Tensor, weights: Weights, heads: int) -> tuple[Tensor, Tensor]:
    """Return the output of self-attention, in which a token counts as often as its size, and the mean key of heads."""
    low_rank = F.linear(F.linear(x, weights["attn.TVPt_LoRA_a"]), weights["attn.TVPt_LoRA_b"])
    qkv = F.linear(x, weights["attn.in_proj_weight"], weights["attn.in_proj_bias"]) + low_rank
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=size.log()[:, None, None, :, 0])
    out = out.transpose(1, 2).flatten(2)
    return F.linear(out, weights["attn.out_proj.weight"], weights["attn.out_proj.bias"]), k.mean(1)


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])
