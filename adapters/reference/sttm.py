"""The released code of STTM, reproduced with its defects (arXiv 2507.07990; HYUNJS/STTM @ 00736c79).

Dimensions: T frames of H x W tokens, P = H*W, D width, M spatial nodes, K groups of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters.ops.quadtree import (
    InnerProducts,
    QuadtreeCells,
    Shapes,
    candidate_pairs,
    coarsest_cells,
    inner_products,
    make_cells,
    number_nodes,
    pair_products,
    sum_groups,
)
from framefold.adapters.ops.similarity import rescale_if_extreme
from framefold.errors import InputError


@dataclass(frozen=True)
class ReleasedMerge:
    """Groups that the release forms of a video of T frames of P tokens: M spatial nodes in K groups.

    Attributes:
        cells: the quadtree of a frame, up to the root level.
        cell: (T, P) int64 cell of the node of each token.
        node: (T, P) int64 node of each token.
        nodes: M.
        pairs: (E, 2) int64 candidate pairs of nodes, sorted.
        linked: (E', 2) pairs that are similar enough to be linked.
        representative: (M,) int64 node into which each node is merged.
    """

    cells: QuadtreeCells
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

    @property
    def weights(self) -> Tensor:
        """(T, P) weight of each token in the mean of the means of its group's nodes."""
        members = torch.bincount(self.representative, minlength=self.nodes)[self.representative]
        return self._weights() / members[self.node]

    def spatial(self, x: Tensor, weighted: bool = False) -> Tensor:
        """Return the (M, D) features of the nodes.

        Args:
            x: (T, P, D) features.
            weighted: mean over all tokens instead of means of means, level by level.
        """
        if weighted:
            return sum_groups(x, self.node, self.nodes) / torch.bincount(self.node.reshape(-1))[:, None]
        return sum_groups(x, self.node, self.nodes, self._weights())

    def final(self, x: Tensor, weighted: bool = False) -> Tensor:
        """Return the (K, D) features of the groups; also used for cos and sin of RoPE.

        Args:
            x: (T, P, D) features.
            weighted: mean over all tokens of a group instead of its nodes.
        """
        rows, k = self.rows, int(self.rows.max()) + 1
        size = torch.bincount(rows.reshape(-1), minlength=k)
        if weighted:
            return sum_groups(x, rows, k) / size[:, None]
        return sum_groups(x, rows, k, self.weights)

    def _weights(self) -> Tensor:
        """Return the (T, P) weight of each token in its node: the product of 1 / parts over the levels."""
        share = torch.ones(self.cells.above.shape, device=self.node.device)
        for depth, above in enumerate(self.cells.above[1:]):
            share[depth + 1] = share[depth] / self.cells.parts[above]
        return share.gather(0, self.cells.level[self.cell])


def release_levels(height: int, width: int, root_level: int) -> Shapes:
    """Return the levels of the release from the finest to the root.

    Args:
        height: H.
        width: W.
        root_level: 0 is the level with a side of 2, -1 the finest.

    Raises:
        InputError: the release fails on this grid, because it has too few levels or a single row would be pooled.
    """
    shapes = [(height, width)]
    while 2 not in shapes[-1] and shapes[-1] != (1, 1):
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    if not -len(shapes) <= root_level < len(shapes):
        raise InputError(
            f"sttm: a {height} x {width} grid has {len(shapes)} levels in the release, so there is no root_level "
            f'{root_level}; use another one, or variant="exact"'
        )
    depth = len(shapes) - 1 - root_level % len(shapes)
    if width == 1:  # the release pools until the width is that of the root, so it never pools a single column
        depth = 0
    if height == 1 and depth > 0:
        raise InputError(f'sttm: the release cannot pool a 1 x {width} grid; use root_level=-1 or variant="exact"')
    return shapes[: depth + 1]


@torch.no_grad()
def merge_as_released(
    video: Tensor,
    tau_s: float,
    tau_t: float,
    root_level: int,
    *,
    weighted_avg: bool = False,
    slow_ver: bool = False,
    head_dim: int | None = None,
) -> ReleasedMerge:
    """Form the groups of the release, with similarities in fp32.

    Args:
        video: (T, H, W, D) features.
        tau_s: see :class:`~framefold.adapters.compressors.sttm.STTM`.
        tau_t: see :class:`~framefold.adapters.compressors.sttm.STTM`.
        root_level: see :class:`~framefold.adapters.compressors.sttm.STTM`.
        weighted_avg: compare sums over tokens instead of means of means; see :meth:`ReleasedMerge.final`.
        slow_ver: of consecutive pairs with the same source, in order of similarity, link only the first one.
        head_dim: compare heads of that many channels, whose cosines are averaged.

    Raises:
        InputError: the release fails on this grid.
    """
    shapes = release_levels(video.shape[1], video.shape[2], root_level)
    if weighted_avg and any(h % 2 != w % 2 for h, w in shapes[:-1]):
        raise InputError(f"sttm: the release cannot weight an even side against an odd one, levels {shapes}")
    # The release has absolute epsilons, so features are rescaled only where fp32 would overflow or underflow.
    cells, x = make_cells(shapes, video.device), rescale_if_extreme(video, max_exponent=33).flatten(1, 2)
    products = inner_products(x, cells, mean=not weighted_avg, head_dim=head_dim, origin=True)
    cell = coarsest_cells(_uniform(products, cells, tau_s), cells)
    node, start = number_nodes(cell, cells)
    nodes = int(start.sum())
    pairs, frame, place = candidate_pairs(node, start)
    linked = pairs[:0]
    if tau_t > 0:
        dots = pair_products(x, cells, products, cell, frame, place, mean=not weighted_avg)
        norm = products.norm + 1e-8
        cosine = (dots / norm[frame, cell[frame, place]] / norm[frame + 1, cell[frame + 1, place]]).mean(-1)
        rows = (cosine >= tau_t).nonzero()[:, 0]
        if slow_ver:
            rows = rows[unlike_previous(pairs[rows], frame[rows], cosine[rows])]
        linked = pairs[rows]
    return ReleasedMerge(cells, cell, node, nodes, pairs, linked, representatives(linked, nodes))


def _uniform(products: InnerProducts, cells: QuadtreeCells, tau_s: float) -> Tensor:
    """Return (T, C) bool, the cells that the release does not split.

    If a cell has fewer than four parts, the release uses the first cell of the next finer level for the missing ones.
    """
    norm, least = products.norm, torch.full(products.norm.shape[:2], torch.inf, device=products.norm.device)
    inner = cells.level + 1 < len(cells.shapes)
    parent = cells.parent[inner]
    cosine = (products.parent[:, inner] / (norm[:, inner] * norm[:, parent]).clamp(min=1e-8)).mean(-1)
    least = least.scatter_reduce(1, parent.expand(len(least), -1), cosine, "amin")
    artefact = (products.origin / (norm * norm[:, cells.origin]).clamp(min=1e-8)).mean(-1)
    return (cells.parts > 0) & (least >= tau_s) & ((cells.parts == 4) | (artefact >= tau_s))


def representatives(pairs: Tensor, count: int) -> Tensor:
    """Return the (M,) node into which each node is merged, by the propagation of the release.

    It repeats minima over pairs and one jump until the map is idempotent. This may happen before linked nodes agree, so
    the result can be finer than connected components.
    """
    rep = torch.arange(count, device=pairs.device)
    while True:
        least = rep[pairs].amin(1)
        rep = rep.scatter_reduce(0, pairs[:, 0], least, "amin").scatter_reduce(0, pairs[:, 1], least, "amin")
        rep = rep[rep]
        if torch.equal(rep, rep[rep]):
            return rep


def unlike_previous(pairs: Tensor, frame: Tensor, similarity: Tensor) -> Tensor:
    """Return the rows of the pairs that ``slow_ver`` keeps, by frame and descending similarity.

    A pair is dropped if the previous one in that order has the same source.
    """
    order = torch.sort(similarity, descending=True, stable=True).indices
    order = order[torch.sort(frame[order], stable=True).indices]
    source = pairs[order, 0]
    kept = torch.ones_like(source, dtype=torch.bool)
    kept[1:] = source[1:] != source[:-1]
    return order[kept]
