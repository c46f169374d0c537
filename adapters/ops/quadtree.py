"""Quadtrees over the frames of a video: geometry, inner products and label maps.

Dimensions: T frames of H x W tokens, P = H*W, D width, L levels, C cells of all levels together, G heads of a cosine,
E pairs of nodes; a node is a cell of a label map. Cells are numbered from the finest level (0 .. P-1, row-major) to the
coarsest. Features are read frame by frame, because a frame fits the CPU cache and a video does not, and in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = list[tuple[int, int]]


@dataclass(frozen=True)
class QuadtreeCells:
    """Geometry of the cells of a frame, which is the same in every frame.

    Attributes:
        shapes: (h, w) of each level, finest first.
        level: (C,) int64 level of each cell.
        parent: (C,) int64 cell of the next coarser level that contains the cell; the cell itself on the last level.
        parts: (C,) int64 number of children, at most 2 x 2; 0 on the finest level.
        origin: (C,) int64 first cell of the next finer level; 0 on the finest level.
        box: (C, 4) int64 (y0, x0, y1, x1) in tokens, y1 and x1 exclusive.
        corner: (C,) int64 top-left token, y0*W + x0.
        above: (L, P) int64 cell of each level that contains the token.
    """

    shapes: Shapes
    level: Tensor
    parent: Tensor
    parts: Tensor
    origin: Tensor
    box: Tensor
    corner: Tensor
    above: Tensor


def quadtree_levels(height: int, width: int) -> Shapes:
    """Return the levels of a quadtree, finest first: both sides are halved, rounding up, until one cell remains."""
    shapes = [(height, width)]
    while shapes[-1] != (1, 1):
        height, width = -(-height // 2), -(-width // 2)
        shapes.append((height, width))
    return shapes


def make_cells(shapes: Shapes, device: torch.device | None = None) -> QuadtreeCells:
    """Compute the geometry of a quadtree; along a side of odd length the first block has one cell, all others two."""
    rows, columns = _intervals([h for h, _ in shapes]), _intervals([w for _, w in shapes])
    level, parent, origin, box, first, below = [], [], [], [], 0, 0
    for depth, (h, w) in enumerate(shapes):
        (top, bottom), (left, right) = rows[depth], columns[depth]
        y, x = (axis.reshape(-1) for axis in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        box.append(torch.stack([top[y], left[x], bottom[y], right[x]], dim=1))
        level.append(torch.full((h * w,), depth))
        if depth + 1 < len(shapes):
            up = (y + h % 2) // 2 * shapes[depth + 1][1] + (x + w % 2) // 2
            parent.append(first + h * w + up)
        else:
            parent.append(first + torch.arange(h * w))
        origin.append(torch.full((h * w,), below))
        below, first = first, first + h * w
    parents, boxes = torch.cat(parent), torch.cat(box)
    parts = torch.bincount(parents[: first - len(box[-1])], minlength=first)
    above = [torch.arange(len(box[0]))]
    for _ in shapes[1:]:
        above.append(parents[above[-1]])
    corner = boxes[:, 0] * shapes[0][1] + boxes[:, 1]
    tensors = (torch.cat(level), parents, parts, torch.cat(origin), boxes, corner, torch.stack(above))
    return QuadtreeCells(shapes, *(tensor.to(device) for tensor in tensors))


def _intervals(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Return, for each level, the first token of each cell along a side and the one after its last token."""
    start, stop = torch.arange(sizes[0]), torch.arange(sizes[0]) + 1
    out = [(start, stop)]
    for n, fewer in zip(sizes, sizes[1:], strict=False):
        last = 2 * torch.arange(fewer) + 1 - n % 2
        start, stop = start[(last - 1).clamp(min=0)], stop[last]
        out.append((start, stop))
    return out


def pool_cells(frame: Tensor, cells: QuadtreeCells, mean: bool, out: Tensor) -> Tensor:
    """Compute the (C, D) fp32 features of all cells of a frame.

    Args:
        frame: (P, D) features.
        cells: geometry.
        mean: mean of the features of the children instead of the sum over all tokens.
        out: (C, D) fp32 buffer for the result.
    """
    first = len(frame)
    out[:first] = frame
    x = out[:first].view(*cells.shapes[0], -1)
    for h, w in cells.shapes[1:]:
        odd = (0, 0, x.shape[1] % 2, 0, x.shape[0] % 2, 0)
        x = torch.nn.functional.pad(x, odd) if any(odd) else x
        rows = x[0::2] + x[1::2]
        x = out[first : first + h * w].view(h, w, -1)
        torch.add(rows[:, 0::2], rows[:, 1::2], out=x)
        if mean:
            x /= cells.parts[first : first + h * w].view(h, w, 1)
        first += h * w
    return out


@dataclass(frozen=True)
class InnerProducts:
    """Norms and inner products of the cells of a video, each (T, C, G).

    Attributes:
        norm: norm of the feature of each cell.
        parent: inner product with the parent of the cell.
        before: inner product with the same cell of the previous frame; 0 in frame 0.
        origin: inner product with the ``origin`` of the cell; empty if not requested.
    """

    norm: Tensor
    parent: Tensor
    before: Tensor
    origin: Tensor


@torch.no_grad()
def inner_products(
    video: Tensor, cells: QuadtreeCells, mean: bool = False, head_dim: int | None = None, origin: bool = False
) -> InnerProducts:
    """Compute norms and inner products in one pass over a video.

    Args:
        video: (T, P, D) features.
        cells: geometry.
        mean: see :func:`pool_cells`.
        head_dim: number of channels of each of the G heads; None: one head.
        origin: compute :attr:`InnerProducts.origin`.
    """
    heads = (-1, head_dim or video.shape[-1])
    shape = (len(video), len(cells.level), video.shape[-1] // heads[1])
    norm, parent, before = (torch.zeros(shape, device=video.device) for _ in range(3))
    first = torch.zeros(shape if origin else (0, 0, 0), device=video.device)
    # Buffers are reused, because allocating them in every step would cost several times the arithmetic.
    x, previous, product = (norm.new_empty(shape[1], video.shape[-1]) for _ in range(3))
    for t, frame in enumerate(video):
        pool_cells(frame, cells, mean, out=x)
        norm[t] = torch.linalg.vector_norm(x.unflatten(-1, heads), dim=-1)
        torch.index_select(x, 0, cells.parent, out=product)
        parent[t] = product.mul_(x).unflatten(-1, heads).sum(-1)
        if origin:
            torch.index_select(x, 0, cells.origin, out=product)
            first[t] = product.mul_(x).unflatten(-1, heads).sum(-1)
        if t:
            before[t] = torch.mul(x, previous, out=product).unflatten(-1, heads).sum(-1)
        x, previous = previous, x
    return InnerProducts(norm, parent, before, first)


def coarsest_cells(chosen: Tensor, cells: QuadtreeCells) -> Tensor:
    """Return the (T, P) coarsest chosen cell that contains each token; the token's own cell if none is chosen.

    Args:
        chosen: (T, C) bool.
        cells: geometry.
    """
    cell = cells.above[0].expand(len(chosen), -1)
    for above in cells.above[1:]:
        cell = torch.where(chosen[:, above], above, cell)
    return cell


def number_nodes(cell: Tensor, cells: QuadtreeCells) -> tuple[Tensor, Tensor]:
    """Number the cells of a (T, P) label map in the order of their top-left tokens.

    Returns:
        (T, P) int64 node of each token, and (T, P) bool, whether a token is the top-left one of its node.
    """
    corner = cells.corner[cell]
    start = corner == cells.above[0]
    number = (start.reshape(-1).cumsum(0) - 1).view_as(cell)
    return number.gather(1, corner), start


def candidate_pairs(node: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pairs of nodes in consecutive frames of which one contains the other.

    Cells are nested, so the top-left token of the smaller node identifies each pair once.

    Args:
        node: (T, P) int64 node of each token.
        start: (T, P) bool, whether a token is the top-left one of its node.

    Returns:
        (E, 2) int64 pairs of earlier and later node, sorted; (E,) frame of the earlier node; (E,) position of the
        identifying token.
    """
    frame, place = (start[:-1] | start[1:]).nonzero(as_tuple=True)
    pairs = torch.stack([node[frame, place], node[frame + 1, place]], dim=1)
    order = torch.sort(pairs[:, 0] * node.numel() + pairs[:, 1]).indices
    return pairs[order], frame[order], place[order]


@torch.no_grad()
def pair_products(
    video: Tensor,
    cells: QuadtreeCells,
    products: InnerProducts,
    cell: Tensor,
    frame: Tensor,
    place: Tensor,
    mean: bool = False,
) -> Tensor:
    """Return the (E, G) inner products of candidate pairs.

    Those of equal cells are taken from ``products``, the others are computed frame by frame.

    Args:
        video: (T, P, D) features.
        cells: geometry.
        products: of the same video.
        cell: (T, P) label map.
        frame: (E,) as :func:`candidate_pairs` returns it.
        place: (E,) as :func:`candidate_pairs` returns it.
        mean: see :func:`pool_cells`.
    """
    a, b = cell[frame, place], cell[frame + 1, place]
    out = products.before[frame + 1, b]
    mixed = (a != b).nonzero()[:, 0]
    mixed = mixed[torch.sort(frame[mixed], stable=True).indices]
    counts = torch.bincount(frame[mixed], minlength=len(video)).tolist()
    heads = (out.shape[1], -1)
    last, (x, following) = -1, (video.new_empty(len(cells.level), video.shape[-1], dtype=torch.float32) for _ in "ab")
    for t, rows in enumerate(torch.split(mixed, counts)):
        if not len(rows):
            continue
        if last != t:
            pool_cells(video[t], cells, mean, out=x)
        pool_cells(video[t + 1], cells, mean, out=following)
        product = x.index_select(0, a[rows]).mul_(following.index_select(0, b[rows]))
        out[rows] = product.unflatten(-1, heads).sum(-1)
        last, x, following = t + 1, following, x
    return out


def sum_groups(features: Tensor, rows: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """Return the (k, D) sums of the tokens of each group, in fp32 or wider; differentiable.

    Args:
        features: (T, P, D).
        rows: (T, P) int64 group of each token in [0, k).
        k: number of groups.
        weight: (T, P) factor of each token, optional.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    out = torch.zeros(k, features.shape[-1], dtype=wide, device=features.device)
    for t, frame in enumerate(features):
        x = frame.to(wide)
        out.index_add_(0, rows[t], x if weight is None else x * weight[t, :, None])
    return out
