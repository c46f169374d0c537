"""STTM: a quadtree over each frame, merged over time where it persists (arXiv 2507.07990)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor

from .base import Compressor
from .errors import ConfigError
from .graph import TINY, moderate
from .ops import Budget
from .pyramid import (
    Cells,
    candidates,
    halvings,
    inner_products,
    make_cells,
    number_nodes,
    pair_products,
    sums,
    topmost,
)
from .sttm_release import official, root_depth
from .tokens import VideoTokens


class STTM(Compressor):
    """Merges what is uniform in space into coarse cells, and those over consecutive frames while they persist.

    Training-free, and the question is not needed: one prefill of the compressed video serves any number of questions.
    A pyramid of 2 x 2 cells lies over each frame (the first block of a side of odd length is of one cell).

    ``variant="exact"``: the relaxation r stands for the thresholds 1 - r (1 - tau_s) in space and 1 - r (1 - tau_t) in
    time. A cell is uniform down to the least cosine similarity of a part with its cell, over itself and all cells in
    it; cells are sums over their tokens, so that parts count by their size. Rule for exactly k tokens:

    1. r is the least that would leave k groups if every uniform cell became a node, and nodes were linked with equal
       cells of the frame before; all r are tried at once, by sorting.
    2. Space: cells up to the root level become nodes while they are uniform at r, the most uniform first, and stop
       before fewer than k nodes are left.
    3. Time: nodes of consecutive frames of which one contains the other are linked, the most similar first, until the
       connected components are k.
    4. Where these pairs run out: parts are linked in the cells that come next in step 2, in the end also in those above
       the root level, the part most similar to its cell first.

    A token of the output is the mean of all tokens of its component, each counted once, at the top-left patch of its
    earliest node; nothing is dropped. Ties go to the lower index. Similarities are fp32.

    ``variant="official"`` gives what the released code gives at the thresholds tau_s, tau_t and root_level, see
    :func:`~framefold.adapters.sttm_release.official`: the number of tokens is what comes of that, and the budget is not
    read. ``exact`` differs from it in taking the thresholds from the budget, in demanding that the cells within a
    uniform cell are uniform too, in means over tokens instead of means of means of nodes, in true components where the
    release stops early, and in having no padding that is compared (odd sides) and no grid on which it fails.

    Args:
        budget: retention ratio or tokens per video; ``official`` does not read it.
        variant: see above.
        tau_s: cosine similarity of parts with their cell. The scripts of the release have 0.75 ... 0.95.
        tau_t: cosine similarity of nodes of consecutive frames; ``official`` links none where it is not positive. The
            scripts have 0.5 ... 0.9. For ``exact`` only the ratio of 1 - tau_s to 1 - tau_t matters.
        root_level: coarsest level of step 2, counted from the level whose shorter side is 2; negative: from the finest.
            ``exact`` takes the nearest that there is.

    Raises:
        ConfigError: another variant, or thresholds of 1 and more for ``exact``.
        InputError: ``official`` on a grid on which the release fails.
    """

    name = "sttm"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        tau_s: float = 0.85,
        tau_t: float = 0.8,
        root_level: int = 0,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"sttm: variant must be 'exact' or 'official', got {variant!r}")
        if variant == "exact" and not (tau_s < 1 and tau_t < 1):
            raise ConfigError(f"sttm: exact relaxes both thresholds from 1 downwards: {tau_s=}, {tau_t=}")
        self.variant, self.tau_s, self.tau_t, self.root_level = variant, tau_s, tau_t, root_level
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        x = video.as_grid().flatten(1, 2)
        if self.variant == "official":
            merged = official(video.as_grid(), self.tau_s, self.tau_t, self.root_level)
            rows, features = merged.rows, merged.final(x)
        else:
            rows = self.groups(video, k)
            features = sums(x, rows, k).div_(torch.bincount(rows.reshape(-1))[:, None])
        rows = rows.reshape(-1)
        size = torch.bincount(rows)
        first = torch.full_like(size, len(rows)).scatter_reduce(0, rows, video.index, "amin")
        return replace(video, features=features.to(video.features.dtype), index=first, size=size, assign=rows)

    @torch.no_grad()
    def groups(self, video: VideoTokens, k: int) -> Tensor:
        """(T, P) int64 which of exactly k groups each token of a dense video goes to, numbered by their first nodes."""
        grid = moderate(video.as_grid())
        x, cells = grid.flatten(1, 2), make_cells(halvings(*grid.shape[1:3]), grid.device)
        products = inner_products(x, cells)
        inverse = torch.where(products.norm > TINY, 1 / products.norm, 0)[..., 0]
        own = products.parent[..., 0] * inverse * inverse[:, cells.parent]
        uniform = uniformity(own, cells)
        above = cells.level > root_depth(grid.shape[1], grid.shape[2], self.root_level, clamp=True)
        space = torch.where(above, torch.inf, (1 - uniform) / (1 - self.tau_s))
        time = (1 - products.before[..., 0] * inverse * inverse.roll(1, 0)) / (1 - self.tau_t)
        time[0] = torch.inf

        order = merging_order(uniform, above, cells)
        ready = int((space[:, cells.parts > 0] <= relaxation(space, time, cells, k)).sum())
        cell = topmost(merged_cells(order[:ready], cells, k, len(x)), cells)
        node, start = number_nodes(cell, cells)
        pairs, frame, place = candidates(node, start)
        a, b = cell[frame, place], cell[frame + 1, place]
        cosine = pair_products(x, cells, products, cell, frame, place)[:, 0] * inverse[frame, a] * inverse[frame + 1, b]
        pairs = pairs[torch.sort(cosine, descending=True, stable=True).indices]
        return components(torch.cat([pairs, spatial_links(own, order, node, cells)]), int(start.sum()), k)[node]


def uniformity(own: Tensor, cells: Cells) -> Tensor:
    """(T, C) the least similarity of a part with its cell, over a cell and all cells in it; 1 on the finest level.

    Args:
        own: (T, C) cosine similarity of each cell with its parent.
    """
    out = torch.ones_like(own)
    for depth in range(len(cells.shapes) - 1):
        parts = (cells.level == depth).nonzero()[:, 0]
        least = torch.minimum(own[:, parts], out[:, parts])
        out.scatter_reduce_(1, cells.parent[parts].expand_as(least), least, "amin")
    return out


def relaxation(space: Tensor, time: Tensor, cells: Cells, k: int) -> float:
    """The least relaxation that leaves k groups, if nodes are linked with equal cells of the frame before only.

    A cell begins a group while it is a node, from its own relaxation to that of its parent, and is not linked; so the
    groups are counted for all relaxations at once. Where there are always more, the largest one.

    Args:
        space, time: (T, C) relaxation from which a cell is a node, and from which it is linked; inf for never.
    """
    begin = torch.where(cells.level == 0, -torch.inf, space)
    last = cells.level + 1 == len(cells.shapes)
    end = torch.minimum(time, torch.where(last, torch.inf, begin[:, cells.parent]))
    real = begin < end
    at, order = torch.sort(torch.cat([begin[real], end[real]]))
    change = torch.where(order < len(at) // 2, 1, -1)
    settled = torch.cat([at[1:] > at[:-1], at.new_ones(1, dtype=torch.bool)])
    enough = (settled & (change.cumsum(0) <= k) & (at < torch.inf)).nonzero()[:1, 0]
    return float(at[enough]) if len(enough) else torch.finfo(at.dtype).max


def merging_order(uniform: Tensor, above: Tensor, cells: Cells) -> Tensor:
    """All cells but the finest, the most uniform first, those above the root level at the end: rows of (C - P, T).

    A cell never comes before one in it, since that is at least as uniform and, of equals, the finer is first.
    """
    inner = cells.parts > 0
    order = torch.sort(uniform[:, inner].T.reshape(-1), descending=True, stable=True).indices
    return order[torch.sort(above[inner].repeat_interleave(len(uniform))[order].int(), stable=True).indices]


def merged_cells(order: Tensor, cells: Cells, k: int, frames: int) -> Tensor:
    """(T, C) bool: the cells of an order that become nodes before fewer than k nodes would be left."""
    inner = cells.parts > 0
    fewer = (cells.parts[inner] - 1)[order // frames]
    tokens = cells.above.shape[1]
    order = order[frames * tokens - fewer.cumsum(0) >= k]
    merged = torch.zeros(len(cells.parts) * frames, dtype=torch.bool, device=order.device)
    merged[order + frames * tokens] = True
    return merged.view(-1, frames).T


def spatial_links(own: Tensor, order: Tensor, node: Tensor, cells: Cells) -> Tensor:
    """(E, 2) pairs of nodes of a frame that connect it: the parts of each cell with its first one, by a merging order.

    Args:
        own: (T, C) similarity of each cell with its parent, which says which part comes first.
        node: (T, P) int64 node of each token.
    """
    tokens, frames = node.shape[1], len(node)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    part = (cells.level + 1 < len(cells.shapes)).nonzero()[:, 0]
    parent = cells.parent[part]
    links = torch.stack([node[:, cells.corner[part]], node[:, cells.corner[parent]]], dim=-1).flatten(0, 1)
    by = torch.sort(own[:, part].reshape(-1), descending=True, stable=True).indices
    turn = rank.view(-1, frames).T[:, parent - tokens].reshape(-1)
    by = by[torch.sort(turn[by], stable=True).indices]
    return links[by][(links[by, 0] != links[by, 1])]


def components(links: Tensor, nodes: int, k: int) -> Tensor:
    """Exactly k groups of connected nodes: links are made in their order, skipping those within a group.

    Args:
        links: (E, 2) int64 distinct pairs that connect all nodes in the end; nodes: M >= k.

    Returns:
        (M,) int64 group of each node, numbered by their first nodes.
    """
    rank = np.arange(1, len(links) + 1)  # from 1: a weight of 0 would be no link
    ends = (*links.T.cpu().numpy(),)
    tree = minimum_spanning_tree(coo_array((rank, ends), shape=(nodes, nodes)).tocsr()).tocoo()
    made = np.argsort(tree.data)[: nodes - k]
    graph = coo_array((np.ones(len(made), np.int8), (tree.row[made], tree.col[made])), shape=(nodes, nodes))
    _, labels = connected_components(graph.tocsr(), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return torch.from_numpy(np.argsort(np.argsort(first))[inverse]).to(links.device)
