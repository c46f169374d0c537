"""TempMe: frames are joined in a binary tree, and similar tokens of joined frames are merged (arXiv 2409.01156)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters.base.merger import Merger
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.allocation import proportional_parts
from framefold.adapters.ops.bipartite import merge_down
from framefold.adapters.ops.similarity import Frames


class TempMe(Merger):
    """Joins neighbouring frames level by level, and merges the most similar tokens of joined frames. Training-free.

    The release does this inside a vision transformer, between and in its blocks, with learned positions of frames. Rule
    for exactly k of N tokens of T frames, at all L = ceil(log2 T) levels of a binary tree (one level if T = 1):

    1. Neighbouring groups of frames are joined; an odd one at the end stays as it is. The tokens of a group are ordered
       by their place in the frame, tokens of earlier frames first.
    2. At level l, max(k, N (k / N)^(l / L)) tokens remain, in each group in proportion to the tokens that it has.
    3. They are reached in rounds of bipartite matching: each token of even number is paired with the token of odd
       number most similar to it, by cosine, and the most similar pairs merge, at most half of the tokens in a round.

    The place of a merged token is the lowest of its tokens. A token of the output is the mean of all its tokens, each
    counted once. Ties go to the lower index, and similarities are multiples of 2^-20.

    Args:
        budget: retention ratio or tokens per video.
    """

    name = "tempme"
    paper = "TempMe, arXiv 2409.01156"
    keeps = "means of similar tokens, merged while neighbouring frames are joined in a tree"
    cost = "at each level of the tree of frames, the similarities of a quarter of all pairs of tokens in a group"
    growth = "quadratic"
    licence = "MIT"
    deviations = (
        "after the encoder instead of inside it, at any budget: all levels join two frames and keep the same share "
        "of tokens; orders tokens by place, so that those of joined frames alternate; no class tokens or positions"
    )

    @torch.no_grad()
    def assign(self, video: VideoTokens, k: int, query: Tensor | None) -> Tensor:
        n, per_frame, device = len(video), video.per_frame, video.features.device
        levels = max(1, (video.grid[0] - 1).bit_length())
        places = torch.arange(per_frame, device=device)
        sizes = video.size.view(-1, per_frame, 1)  # above 1 in chains, whose earlier stages have merged tokens
        nodes = [
            _Node(frame * size, places, places) for frame, size in zip(Frames(video, rescale=True), sizes, strict=True)
        ]
        for level in range(1, levels + 1):
            nodes = [nodes[i].joined(nodes[i + 1]) if i + 1 < len(nodes) else nodes[i] for i in range(0, len(nodes), 2)]
            target = k if level == levels else max(k, round(n * math.pow(k / n, level / levels)))
            left = torch.tensor([len(node.sums) for node in nodes])
            counts = proportional_parts(left, target).clamp_min(1).tolist()
            nodes = [node.reduced(count) for node, count in zip(nodes, counts, strict=True)]
        return nodes[0].groups


@dataclass(frozen=True)
class _Node:
    """A run of frames with n remaining tokens.

    Attributes:
        sums: (n, D) fp32 sums over the tokens that each represents.
        places: (n,) lowest place in the frame of these tokens.
        groups: row in ``sums`` of each original token of the frames.
    """

    sums: Tensor
    places: Tensor
    groups: Tensor

    def joined(self, later: _Node) -> _Node:
        places, order = torch.sort(torch.cat([self.places, later.places]), stable=True)
        row = torch.empty_like(order)
        row[order] = torch.arange(len(order), device=order.device)
        groups = row[torch.cat([self.groups, later.groups + len(self.places)])]
        return _Node(torch.cat([self.sums, later.sums])[order], places, groups)

    def reduced(self, count: int) -> _Node:
        sums, groups = merge_down(self.sums, count)
        places = torch.full_like(self.places[:count], len(self.groups)).scatter_reduce(0, groups, self.places, "amin")
        return _Node(sums, places, groups[self.groups])
