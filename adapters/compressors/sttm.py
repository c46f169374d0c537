"""STTM: a quadtree over each frame whose nodes are merged over time (arXiv 2507.07990)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.connected_components import connected_components, spanning_forest
from framefold.adapters.ops.quadtree import (
    QuadtreeCells,
    candidate_pairs,
    coarsest_cells,
    inner_products,
    make_cells,
    number_nodes,
    pair_products,
    quadtree_levels,
    sum_groups,
)
from framefold.adapters.ops.similarity import TINY, rescale_if_extreme
from framefold.adapters.reference.sttm import merge_as_released
from framefold.errors import ConfigError


class STTM(Compressor):
    """Merges uniform regions into coarse cells, and cells over consecutive frames if they persist.

    Training-free and independent of the question: one prefill of the compressed video serves any number of questions. A
    quadtree of 2 x 2 cells covers each frame; along a side of odd length, the first block has one cell.

    ``variant="exact"``: a relaxation r stands for the thresholds 1 - r (1 - tau_s) in space and 1 - r (1 - tau_t) in
    time. The uniformity of a cell is the least cosine similarity of a part with its cell, over the cell and all cells
    inside it. The feature of a cell is the sum over its tokens, so that parts count by their size. Rule for exactly k
    tokens:

    1. Find the least r that leaves at most k groups if every uniform cell becomes a node and nodes are linked with
    equal
       cells of the previous frame; all r are evaluated at once by sorting.
    2. Cells that are uniform at less than r become nodes.
    3. Link nodes, least relaxation first, until there are k connected components. Candidates are nodes of consecutive
       frames of which one contains the other, by their cosine similarity; and the parts of further cells, by the
       uniformity of the cell, the most similar part first.

    A token of the output is the mean of all tokens of its component, each counted once, at the top-left token of its
    earliest node. No token is dropped. Ties go to the lower index. Similarities are fp32.

    ``variant="official"`` gives the result of the released code at the thresholds tau_s, tau_t and root_level, see
    :func:`~framefold.adapters.reference.sttm.merge_as_released`. The thresholds determine the number of tokens, and the
    budget is ignored. ``exact`` differs in deriving the thresholds from the budget, in requiring that the cells inside
    a uniform cell are uniform too, in means over tokens instead of means of means of nodes, and in true connected
    components where the release stops early. It has no padding that is compared (odd sides), no root level and no grid
    on which it fails.

    Args:
        budget: retention ratio or tokens per video; ``official`` ignores it.
        variant: "exact" for the rule above, "official" for the release.
        tau_s: cosine similarity of parts with their cell; 0.75 ... 0.95 in the scripts of the release.
        tau_t: cosine similarity of nodes of consecutive frames, 0.5 ... 0.9 in the scripts; ``official`` links none if
            it is not positive. For ``exact``, only the ratio of 1 - tau_s to 1 - tau_t matters. The defaults are those
            of the scripts for features before the language model.
        root_level: coarsest level of ``official``, counted from the level whose shorter side is 2; negative: from the
            finest. It is 1 in the scripts.

    Raises:
        ConfigError: an unknown variant, or thresholds of 1 or more for ``exact``.
        InputError: ``official`` on a grid on which the release fails.
    """

    name = "sttm"
    paper = "STTM, arXiv 2507.07990"
    keeps = "means of similar regions, merged over frames where they persist"
    cost = "a quadtree and its similarities: a few passes over the tokens"
    licence = "none"
    deviations = (
        "derives the thresholds from the budget, requires uniform cells at every level, and takes means over "
        "all tokens of true components; the release has fixed thresholds, means of means, and components that "
        "may be split"
    )

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        tau_s: float = 0.9,
        tau_t: float = 0.9,
        root_level: int = 0,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official"):
            raise ConfigError(f"sttm: variant must be 'exact' or 'official', got {variant!r}")
        if variant == "exact" and not (tau_s < 1 and tau_t < 1):
            raise ConfigError(f"sttm: variant='exact' needs thresholds below 1: {tau_s=}, {tau_t=}")
        self.variant, self.tau_s, self.tau_t, self.root_level = variant, tau_s, tau_t, root_level
        self.exact_budget = variant == "exact"

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        x = video.as_grid().flatten(1, 2)
        if self.variant == "official":
            merged = merge_as_released(video.as_grid(), self.tau_s, self.tau_t, self.root_level)
            rows, features = merged.rows, merged.final(x)
        else:
            rows = self.groups(video, k)
            features = sum_groups(x, rows, k).div_(torch.bincount(rows.reshape(-1))[:, None])
        rows = rows.reshape(-1)
        size = torch.bincount(rows)
        first = torch.full_like(size, len(rows)).scatter_reduce(0, rows, video.index, "amin")
        return replace(video, features=features.to(video.features.dtype), index=first, size=size, assign=rows)

    @torch.no_grad()
    def groups(self, video: VideoTokens, k: int) -> Tensor:
        """Return the (T, P) int64 group of each token of a dense video; k groups, numbered by their first nodes."""
        grid = rescale_if_extreme(video.as_grid())
        x, cells = grid.flatten(1, 2), make_cells(quadtree_levels(*grid.shape[1:3]), grid.device)
        products = inner_products(x, cells)
        inverse = torch.where(products.norm > TINY, 1 / products.norm, 0)[..., 0]
        own = products.parent[..., 0] * inverse * inverse[:, cells.parent]
        space = (1 - uniformity(own, cells)) / (1 - self.tau_s)
        time = (1 - products.before[..., 0] * inverse * inverse.roll(1, 0)) / (1 - self.tau_t)
        time[0] = torch.inf

        merged = (space < relaxation(space, time, cells, k)) & (cells.parts > 0)
        cell = coarsest_cells(merged, cells)
        node, start = number_nodes(cell, cells)
        pairs, frame, place = candidate_pairs(node, start)
        a, b = cell[frame, place], cell[frame + 1, place]
        cosine = pair_products(x, cells, products, cell, frame, place)[:, 0] * inverse[frame, a] * inverse[frame + 1, b]
        links, at = spatial_links(own, space, node, cells)
        order = torch.sort(torch.cat([(1 - cosine) / (1 - self.tau_t), at]), stable=True).indices
        return join_links(torch.cat([pairs, links])[order], int(start.sum()), k)[node]


def uniformity(own: Tensor, cells: QuadtreeCells) -> Tensor:
    """Return the (T, C) least similarity of a part with its cell, over a cell and all cells inside it.

    Args:
        own: (T, C) cosine similarity of each cell with its parent.
        cells: geometry.

    Returns:
        (T, C), 1 on the finest level.
    """
    out = torch.ones_like(own)
    for depth in range(len(cells.shapes) - 1):
        parts = (cells.level == depth).nonzero()[:, 0]
        least = torch.minimum(own[:, parts], out[:, parts])
        out.scatter_reduce_(1, cells.parent[parts].expand_as(least), least, "amin")
    return out


def relaxation(space: Tensor, time: Tensor, cells: QuadtreeCells, k: int) -> float:
    """Return the least relaxation that leaves at most k groups if nodes are linked only with equal previous cells.

    A cell starts a group while it is a node, i.e. between its own relaxation and that of its parent, and is not linked.
    So groups are counted for all relaxations at once. The largest relaxation leaves one group, because a frame is one
    cell.

    Args:
        space: (T, C) relaxation from which a cell is a node.
        time: (T, C) relaxation from which a cell is linked with the same cell of the previous frame; inf for never.
        cells: geometry.
        k: number of groups.
    """
    begin = torch.where(cells.level == 0, -torch.inf, space)
    last = cells.level + 1 == len(cells.shapes)
    end = torch.minimum(time, torch.where(last, torch.inf, begin[:, cells.parent]))
    real = begin < end
    at, order = torch.sort(torch.cat([begin[real], end[real]]))
    change = torch.where(order < len(at) // 2, 1, -1)
    settled = torch.cat([at[1:] > at[:-1], at.new_ones(1, dtype=torch.bool)])
    return float(at[settled & (change.cumsum(0) <= k)][0])


def spatial_links(own: Tensor, space: Tensor, node: Tensor, cells: QuadtreeCells) -> tuple[Tensor, Tensor]:
    """Return the pairs of nodes that connect a frame: the parts of each cell with its first part.

    Args:
        own: (T, C) similarity of each cell with its parent.
        space: (T, C) relaxation from which a cell is uniform; it never decreases from a cell to its parent.
        node: (T, P) int64 node of each token.
        cells: geometry.

    Returns:
        (E, 2) int64 links, finer cells first and then more similar parts first; and the (E,) relaxation of their cells.
    """
    part = (cells.level + 1 < len(cells.shapes)).nonzero()[:, 0]
    parent = cells.parent[part]
    order = torch.sort(own[:, part].T.reshape(-1), descending=True, stable=True).indices
    order = order[torch.sort(parent.repeat_interleave(len(node))[order], stable=True).indices]
    links = torch.stack([node[:, cells.corner[part]], node[:, cells.corner[parent]]], dim=-1)
    links, at = links.transpose(0, 1).flatten(0, 1)[order], space[:, parent].T.reshape(-1)[order]
    apart = links[:, 0] != links[:, 1]
    return links[apart], at[apart]


def join_links(links: Tensor, nodes: int, k: int) -> Tensor:
    """Link nodes in the given order, skipping links within a group, until k groups remain.

    Args:
        links: (E, 2) int64 distinct pairs that connect all nodes.
        nodes: number of nodes M, at least k.
        k: number of groups.

    Returns:
        (M,) int64 group of each node, numbered by their first nodes.
    """
    source, target = links.T
    used = spanning_forest(source, target, nodes)[: nodes - k]
    return connected_components(source[used], target[used], nodes)
