"""Quadtrees: geometry, pooled features and inner products, against loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops.quadtree import (
    candidate_pairs,
    coarsest_cells,
    inner_products,
    make_cells,
    number_nodes,
    pair_products,
    pool_cells,
    quadtree_levels,
)
from tests.support.videos import noise

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
grids = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))


def test_cells_tile_every_level() -> None:
    for h, w in [(1, 1), (1, 6), (5, 3), (14, 9)]:
        cells = make_cells(quadtree_levels(h, w))
        for level, above in enumerate(cells.above):
            boxes = cells.box[cells.level == level]
            assert int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()) == h * w
            y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
            y0, x0, y1, x1 = cells.box[above].T
            assert bool(((y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)).all())


def test_features_of_cells_are_sums_or_means_of_means() -> None:
    frame = torch.arange(9.0).view(9, 1)
    cells = make_cells(quadtree_levels(3, 3))
    found = [pool_cells(frame, cells, mean, torch.empty(14, 1))[9:, 0].tolist() for mean in (False, True)]
    assert found == [[0, 3, 9, 24, 36], [0, 1.5, 4.5, 6, 3]]


@quick
@given(grid=grids, seed=st.integers(0, 1000), head_dim=st.sampled_from([None, 3]), mean=st.booleans())
def test_pairs_and_their_products_against_loops(grid, seed, head_dim, mean) -> None:
    (t, h, w), video = grid, noise(grid[0], grid[1] * grid[2], 6, seed=seed)
    cells = make_cells(quadtree_levels(h, w))
    chosen = torch.rand(t, len(cells.parts), generator=torch.Generator().manual_seed(seed)) < 0.3
    chosen[::2] &= seed % 2 == 0  # and frames of which none has a coarse cell
    cell = coarsest_cells(chosen, cells)
    node, start = number_nodes(cell, cells)
    x = torch.stack([pool_cells(frame, cells, mean, torch.empty(len(cells.parts), 6)) for frame in video])
    expected = {}
    for i in range(t - 1):
        for p in range(h * w):
            a, b = cell[i, p], cell[i + 1, p]
            heads = (x[i, a] * x[i + 1, b]).view(-1, head_dim or 6).sum(-1)
            expected[int(node[i, p]), int(node[i + 1, p])] = heads
    pairs, frame, place = candidate_pairs(node, start)
    products = inner_products(video, cells, mean, head_dim)
    assert pairs.tolist() == [list(pair) for pair in sorted(expected)]
    found = pair_products(video, cells, products, cell, frame, place, mean)
    for row, pair in zip(found, sorted(expected), strict=True):
        torch.testing.assert_close(row, expected[pair])
