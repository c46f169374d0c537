"""Pyramids of cells over the frames of a video: geometry, similarities, label maps. No thresholds.

Dimensions: T frames of H x W tokens, P = H*W, D width, L levels, C cells of all levels together, G heads of a cosine,
E pairs of nodes; a node is a cell of a label map.
Cells are numbered from the finest level (0 .. P-1, row-major) to the coarsest. The features are read frame by frame,
because a frame fits the cache and a video does not, and always in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = list[tuple[int, int]]


@dataclass(frozen=True)
class Cells:
    """The cells of a frame, the same in every frame.

    Attributes:
        shapes: (h, w) of each level, finest first.
        level: (C,) int64.
        parent: (C,) int64 cell of the next level that a cell is part of; itself on the last level.
        parts: (C,) int64 number of cells of the level below, at most 2 x 2; 0 on the finest level.
        origin: (C,) int64 first cell of the level below; 0 on the finest level.
        box: (C, 4) int64 (y0, x0, y1, x1) in tokens, y1 and x1 exclusive.
        corner: (C,) int64 top-left token, y0*W + x0.
        above: (L, P) int64 cell of each level that a token lies in.
    """

    shapes: Shapes
    level: Tensor
    parent: Tensor
    parts: Tensor
    origin: Tensor
    box: Tensor
    corner: Tensor
    above: Tensor


def halvings(height: int, width: int) -> Shapes:
    """Levels of a pyramid down to one cell: both sides are halved, rounded up. Finest first."""
    shapes = [(height, width)]
    while shapes[-1] != (1, 1):
        height, width = -(-height // 2), -(-width // 2)
        shapes.append((height, width))
    return shapes


def make_cells(shapes: Shapes, device: torch.device | None = None) -> Cells:
    """Geometry of a pyramid; along a side of odd length the first block is of one cell, all others are of two."""
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
    return Cells(shapes, *(tensor.to(device) for tensor in tensors))


def _intervals(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Per level, the first token and the one after the last of each cell along a side."""
    start, stop = torch.arange(sizes[0]), torch.arange(sizes[0]) + 1
    out = [(start, stop)]
    for n, fewer in zip(sizes, sizes[1:], strict=False):
        last = 2 * torch.arange(fewer) + 1 - n % 2
        start, stop = start[(last - 1).clamp(min=0)], stop[last]
        out.append((start, stop))
    return out


def pooled(frame: Tensor, cells: Cells, mean: bool, out: Tensor) -> Tensor:
    """(C, D) fp32 features of all cells of a frame (P, D): sums over their tokens, or means of the means below."""
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
class Products:
    """Norms and inner products of the cells of a video, each (T, C, G).

    Attributes:
        norm: length of each cell's feature.
        parent: with the cell's parent.
        before: with the same cell of the previous frame; 0 in frame 0.
        origin: with the cell's origin; empty if not asked for.
    """

    norm: Tensor
    parent: Tensor
    before: Tensor
    origin: Tensor


@torch.no_grad()
def inner_products(
    video: Tensor, cells: Cells, mean: bool = False, head_dim: int | None = None, origin: bool = False
) -> Products:
    """One pass over a video (T, P, D); with ``head_dim`` the channels are cut into G heads of that size."""
    heads = (-1, head_dim or video.shape[-1])
    shape = (len(video), len(cells.level), video.shape[-1] // heads[1])
    norm, parent, before = (torch.zeros(shape, device=video.device) for _ in range(3))
    first = torch.zeros(shape if origin else (0, 0, 0), device=video.device)
    # Three frames to work in: memory that is new in every step costs several times the arithmetic.
    x, previous, product = (norm.new_empty(shape[1], video.shape[-1]) for _ in range(3))
    for t, frame in enumerate(video):
        pooled(frame, cells, mean, out=x)
        norm[t] = torch.linalg.vector_norm(x.unflatten(-1, heads), dim=-1)
        torch.index_select(x, 0, cells.parent, out=product)
        parent[t] = product.mul_(x).unflatten(-1, heads).sum(-1)
        if origin:
            torch.index_select(x, 0, cells.origin, out=product)
            first[t] = product.mul_(x).unflatten(-1, heads).sum(-1)
        if t:
            before[t] = torch.mul(x, previous, out=product).unflatten(-1, heads).sum(-1)
        x, previous = previous, x
    return Products(norm, parent, before, first)


def topmost(chosen: Tensor, cells: Cells) -> Tensor:
    """(T, P) the coarsest chosen cell over each token, the token's own where none is; ``chosen`` is (T, C) bool."""
    cell = cells.above[0].expand(len(chosen), -1)
    for above in cells.above[1:]:
        cell = torch.where(chosen[:, above], above, cell)
    return cell


def number_nodes(cell: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
    """Number the cells of a label map (T, P) in the order of their top-left tokens.

    Returns:
        node (T, P) int64 and start (T, P) bool, where a token is the top-left one of its node.
    """
    corner = cells.corner[cell]
    start = corner == cells.above[0]
    number = (start.reshape(-1).cumsum(0) - 1).view_as(cell)
    return number.gather(1, corner), start


def candidates(node: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of consecutive frames of which one contains the other, read off the label maps.

    Cells are nested, so the top-left token of the smaller node finds each pair once.

    Args:
        node: (T, P) int64 node of each token; start: (T, P) bool, whether it is the top-left token of its node.

    Returns:
        pairs (E, 2) int64, earlier and later node, sorted; and frame (E,) of the earlier one, place (E,) of the token.
    """
    frame, place = (start[:-1] | start[1:]).nonzero(as_tuple=True)
    pairs = torch.stack([node[frame, place], node[frame + 1, place]], dim=1)
    order = torch.sort(pairs[:, 0] * node.numel() + pairs[:, 1]).indices
    return pairs[order], frame[order], place[order]


@torch.no_grad()
def pair_products(
    video: Tensor, cells: Cells, products: Products, cell: Tensor, frame: Tensor, place: Tensor, mean: bool = False
) -> Tensor:
    """(E, G) inner products of candidate pairs; those of equal cells are known, the others are computed by frames.

    Args:
        video: (T, P, D); cell: (T, P) label map; frame, place: (E,) as :func:`candidates` returns them.
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
            pooled(video[t], cells, mean, out=x)
        pooled(video[t + 1], cells, mean, out=following)
        product = x.index_select(0, a[rows]).mul_(following.index_select(0, b[rows]))
        out[rows] = product.unflatten(-1, heads).sum(-1)
        last, x, following = t + 1, following, x
    return out


def sums(features: Tensor, rows: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """(k, D) sums of the tokens of each row, in fp32 or wider; differentiable.

    Args:
        features: (T, P, D); rows: (T, P) int64 in [0, k); weight: (T, P) of each token.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    out = torch.zeros(k, features.shape[-1], dtype=wide, device=features.device)
    for t, frame in enumerate(features):
        x = frame.to(wide)
        out.index_add_(0, rows[t], x if weight is None else x * weight[t, :, None])
    return out
