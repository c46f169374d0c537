"""Even positions and near-equal partitions, against their definitions."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops.partition import even_positions, split_cells, split_runs
from framefold.adapters.ops.segments import segment_median

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@quick
@given(n=st.integers(1, 300), data=st.data())
def test_even_positions_and_split_runs(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    runs = split_runs(n, k).tolist()
    assert runs == sorted(runs) and set(runs) == set(range(k))
    lengths = [runs.count(i) for i in range(k)]
    assert max(lengths) - min(lengths) <= 1
    places = even_positions(n, k).tolist()
    assert places == [math.floor((i + 0.5) * n / k) for i in range(k)]
    assert all(a < b for a, b in zip(places, places[1:], strict=False)) and places[0] >= 0 and places[-1] < n


@quick
@given(height=st.integers(1, 9), width=st.integers(1, 9), data=st.data())
def test_split_cells_are_rectangles(height: int, width: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, height * width))
    cells = split_cells(height, width, k).reshape(height, width)
    assert set(cells.unique().tolist()) == set(range(k))
    areas = []
    for group in range(k):
        y, x = (cells == group).nonzero(as_tuple=True)
        areas.append(len(y))
        assert areas[-1] == (y.max() - y.min() + 1) * (x.max() - x.min() + 1)
    anchors = segment_median(cells.reshape(-1), k)
    assert bool((anchors[1:] > anchors[:-1]).all())  # fila relies on it
