"""What the released code of STTM does (arXiv 2507.07990; HYUNJS/STTM @ 00736c79), quirks and all.

Dimensions: T frames of H x W tokens, P = H*W, D width, M spatial nodes, K groups of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters.ops.quadtree import (
    Cells,
    Products,
    Shapes,
    candidates,
    inner_products,
    make_cells,
    number_nodes,
    pair_products,
    sums,
    topmost,
)
from framefold.adapters.ops.similarity import moderate
from framefold.errors import InputError


@dataclass(frozen=True)
class Merged:
    """What the release makes of a video of T frames of P tokens: M spatial nodes in K groups.

    Attributes:
        cells: the pyramid of a frame, up to the root level.
        cell: (T, P) int64 cell that each token's node is; node: (T, P) int64 number of the node; nodes: M.
        pairs: (E, 2) int64 candidate pairs of nodes, sorted; linked: (E', 2) those that are similar enough.
        representative: (M,) int64 node that each node is merged into.
    """

    cells: Cells
    cell: Tensor
    node: Tensor
    nodes: int
    pairs: Tensor
    linked: Tensor
    representative: Tensor

    @property
    def corner(self) -> Tensor:
        """(M,) int64 top-left token of each node, t*P + y0*W + x0."""
        tokens = torch.arange(self.node.numel(), device=self.node.device)
        first = torch.full((self.nodes,), len(tokens), device=self.node.device)
        return first.scatter_reduce(0, self.node.reshape(-1), tokens, "amin")

    @property
    def rows(self) -> Tensor:
        """(T, P) int64 output row of each token."""
        kept = self.representative == torch.arange(self.nodes, device=self.node.device)
        return (kept.cumsum(0) - 1)[self.representative][self.node]

    def spatial(self, x: Tensor, weighted: bool = False) -> Tensor:
        """(M, D) nodes of features (T, P, D): means of means, level by level, or of all tokens if they are weighted."""
        if weighted:
            return sums(x, self.node, self.nodes) / torch.bincount(self.node.reshape(-1))[:, None]
        return sums(x, self.node, self.nodes, self._weights())

    def final(self, x: Tensor, weighted: bool = False) -> Tensor:
        """(K, D) plain means of the nodes of each group, or over all of its tokens; for cos and sin of RoPE as well."""
        rows, k = self.rows, int(self.rows.max()) + 1
        size = torch.bincount(rows.reshape(-1), minlength=k)
        if weighted:
            return sums(x, rows, k) / size[:, None]
        alike = torch.bincount(self.representative, minlength=self.nodes)[self.representative]
        return sums(x, rows, k, self._weights() / alike[self.node])

    def _weights(self) -> Tensor:
        """(T, P) share of each token in its node: 1 / parts on each level on the way up."""
        share = torch.ones(self.cells.above.shape, device=self.node.device)
        for depth, above in enumerate(self.cells.above[1:]):
            share[depth + 1] = share[depth] / self.cells.parts[above]
        return share.gather(0, self.cells.level[self.cell])


def release_levels(height: int, width: int, root_level: int) -> Shapes:
    """Levels of the release from the finest to the root; root level 0 is the one with a side of 2, -1 the finest.

    Raises:
        InputError: a grid on which the release fails: fewer levels than asked for, or one row that would be pooled.
    """
    shapes = [(height, width)]
    while 2 not in shapes[-1] and shapes[-1] != (1, 1):
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    if not -len(shapes) <= root_level < len(shapes):
        raise InputError(
            f"sttm: a {height} x {width} grid has {len(shapes)} levels in the release, so none of number {root_level}; "
            'take another root_level or variant="exact"'
        )
    depth = len(shapes) - 1 - root_level % len(shapes)
    if width == 1:  # the release pools until the width is that of the root, so it never does
        depth = 0
    if height == 1 and depth > 0:
        raise InputError(f'sttm: the release cannot pool a 1 x {width} grid; take root_level=-1 or variant="exact"')
    return shapes[: depth + 1]


@torch.no_grad()
def official(
    video: Tensor,
    tau_s: float,
    tau_t: float,
    root_level: int,
    *,
    weighted_avg: bool = False,
    slow_ver: bool = False,
    head_dim: int | None = None,
) -> Merged:
    """Groups of the release (HYUNJS/STTM @ 00736c79), with its quirks; similarities in fp32.

    Args:
        video: (T, H, W, D) features.
        tau_s, tau_t, root_level: see :class:`STTM`.
        weighted_avg: compare sums over tokens instead of means of means; see :meth:`Merged.final`.
        slow_ver: of neighbouring pairs in the order of similarity only the first of a source is linked.
        head_dim: compare in heads of that many channels, whose cosines are averaged.

    Raises:
        InputError: a grid on which the release fails.
    """
    shapes = release_levels(video.shape[1], video.shape[2], root_level)
    if weighted_avg and any(h % 2 != w % 2 for h, w in shapes[:-1]):
        raise InputError(f"sttm: the release cannot weight an even side against an odd one, levels {shapes}")
    cells, x = make_cells(shapes, video.device), moderate(video).flatten(1, 2)
    products = inner_products(x, cells, mean=not weighted_avg, head_dim=head_dim, origin=True)
    cell = topmost(_uniform(products, cells, tau_s), cells)
    node, start = number_nodes(cell, cells)
    nodes = int(start.sum())
    pairs, frame, place = candidates(node, start)
    linked = pairs[:0]
    if tau_t > 0:
        dots = pair_products(x, cells, products, cell, frame, place, mean=not weighted_avg)
        norm = products.norm + 1e-8
        cosine = (dots / norm[frame, cell[frame, place]] / norm[frame + 1, cell[frame + 1, place]]).mean(-1)
        rows = (cosine >= tau_t).nonzero()[:, 0]
        if slow_ver:
            rows = rows[unlike_previous(pairs[rows], frame[rows], cosine[rows])]
        linked = pairs[rows]
    return Merged(cells, cell, node, nodes, pairs, linked, representatives(linked, nodes))


def _uniform(products: Products, cells: Cells, tau_s: float) -> Tensor:
    """(T, C) bool: cells that the release does not split.

    Where a cell has fewer than four parts, the release takes the first cell of the level below for the missing ones.
    """
    norm, least = products.norm, torch.full(products.norm.shape[:2], torch.inf, device=products.norm.device)
    inner = cells.level + 1 < len(cells.shapes)
    parent = cells.parent[inner]
    cosine = (products.parent[:, inner] / (norm[:, inner] * norm[:, parent]).clamp(min=1e-8)).mean(-1)
    least = least.scatter_reduce(1, parent.expand(len(least), -1), cosine, "amin")
    artefact = (products.origin / (norm * norm[:, cells.origin]).clamp(min=1e-8)).mean(-1)
    return (cells.parts > 0) & (least >= tau_s) & ((cells.parts == 4) | (artefact >= tau_s))


def representatives(pairs: Tensor, count: int) -> Tensor:
    """(M,) node that each node is merged into, by the release's propagation.

    It takes minima over pairs and jumps once until the map is idempotent, which may be before linked nodes agree: the
    result can be finer than connected components.
    """
    rep = torch.arange(count, device=pairs.device)
    while True:
        least = rep[pairs].amin(1)
        rep = rep.scatter_reduce(0, pairs[:, 0], least, "amin").scatter_reduce(0, pairs[:, 1], least, "amin")
        rep = rep[rep]
        if torch.equal(rep, rep[rep]):
            return rep


def unlike_previous(pairs: Tensor, frame: Tensor, similarity: Tensor) -> Tensor:
    """The release's ``slow_ver``: by falling similarity in each pair of frames, a pair stays unless the one before it
    has the same source.

    Returns:
        rows of the pairs that stay, in that order.
    """
    order = torch.sort(similarity, descending=True, stable=True).indices
    order = order[torch.sort(frame[order], stable=True).indices]
    source = pairs[order, 0]
    stays = torch.ones_like(source, dtype=torch.bool)
    stays[1:] = source[1:] != source[:-1]
    return order[stays]
