"""STTM: a quadtree over each frame, merged over time where it persists (arXiv 2507.07990)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.connected_components import components, spanning_forest
from framefold.adapters.ops.quadtree import (
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
from framefold.adapters.ops.similarity import TINY, moderate
from framefold.adapters.reference.sttm import official
from framefold.errors import ConfigError


class STTM(Compressor):
    """Merges what is uniform in space into coarse cells, and those over consecutive frames while they persist.

    Training-free, and the question is not needed: one prefill of the compressed video serves any number of questions.
    A pyramid of 2 x 2 cells lies over each frame (the first block of a side of odd length is of one cell).

    ``variant="exact"``: the relaxation r stands for the thresholds 1 - r (1 - tau_s) in space and 1 - r (1 - tau_t) in
    time. A cell is uniform down to the least cosine similarity of a part with its cell, over itself and all cells in
    it; cells are sums over their tokens, so that parts count by their size. Rule for exactly k tokens:

    1. r is the least that would leave at most k groups if every uniform cell became a node, and nodes were linked with
       equal cells of the frame before; all r are tried at once, by sorting.
    2. Cells that are uniform at less than r become nodes.
    3. Nodes are linked, least relaxation first, until the connected components are k: those of consecutive frames of
       which one contains the other, by their cosine similarity; and the parts of further cells, by how uniform the cell
       is, the part most similar to it first.

    A token of the output is the mean of all tokens of its component, each counted once, at the top-left patch of its
    earliest node; nothing is dropped. Ties go to the lower index. Similarities are fp32.

    ``variant="official"`` gives what the released code gives at the thresholds tau_s, tau_t and root_level, see
    :func:`~framefold.adapters.reference.sttm.official`: the number of tokens follows from them, and the budget is not
    read. ``exact`` differs from it in taking the thresholds from the budget, in demanding that the cells within a
    uniform cell are uniform too, in means over tokens instead of means of means of nodes, in true components where the
    release stops early, and in having no padding that is compared (odd sides), no root level and no grid on which it
    fails.

    Args:
        budget: retention ratio or tokens per video; ``official`` does not read it.
        variant: see above.
        tau_s: cosine similarity of parts with their cell; the scripts of the release have 0.75 ... 0.95.
        tau_t: cosine similarity of nodes of consecutive frames, 0.5 ... 0.9 in the scripts; ``official`` links none
            where it is not positive. For ``exact`` only the ratio of 1 - tau_s to 1 - tau_t matters. The defaults are
            what the scripts have for features before the language model.
        root_level: coarsest level of ``official``, counted from the one whose shorter side is 2; negative: from the
            finest. The scripts have 1.

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
        tau_s: float = 0.9,
        tau_t: float = 0.9,
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
        space = (1 - uniformity(own, cells)) / (1 - self.tau_s)
        time = (1 - products.before[..., 0] * inverse * inverse.roll(1, 0)) / (1 - self.tau_t)
        time[0] = torch.inf

        merged = (space < relaxation(space, time, cells, k)) & (cells.parts > 0)
        cell = topmost(merged, cells)
        node, start = number_nodes(cell, cells)
        pairs, frame, place = candidates(node, start)
        a, b = cell[frame, place], cell[frame + 1, place]
        cosine = pair_products(x, cells, products, cell, frame, place)[:, 0] * inverse[frame, a] * inverse[frame + 1, b]
        links, at = spatial_links(own, space, node, cells)
        order = torch.sort(torch.cat([(1 - cosine) / (1 - self.tau_t), at]), stable=True).indices
        return join_links(torch.cat([pairs, links])[order], int(start.sum()), k)[node]


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
    """The least relaxation that leaves at most k groups, if nodes are linked with equal cells of the frame before only.

    A cell begins a group while it is a node, from its own relaxation to that of its parent, and is not linked; so the
    groups are counted for all relaxations at once. In the end there is one group, since a frame is one cell.

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
    return float(at[settled & (change.cumsum(0) <= k)][0])


def spatial_links(own: Tensor, space: Tensor, node: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Pairs of nodes of a frame that connect it: the parts of each cell with its first one.

    Args:
        own: (T, C) similarity of each cell with its parent.
        space: (T, C) relaxation from which a cell is uniform; for no cell less than for one in it.
        node: (T, P) int64 node of each token.

    Returns:
        links (E, 2) int64, finer cells and then more similar parts first; and relaxation (E,) of their cells.
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
    """Exactly k groups of connected nodes: links are made in their order, skipping those within a group.

    Args:
        links: (E, 2) int64 distinct pairs that connect all nodes in the end; nodes: M >= k.

    Returns:
        (M,) int64 group of each node, numbered by their first nodes.
    """
    source, target = links.T
    made = spanning_forest(source, target, nodes)[: nodes - k]
    return components(source[made], target[made], nodes)
