"""Windows of still positions, against all tilings of short videos."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.ops.windows import still_windows


def gain(similar: torch.Tensor, first: int, last: int) -> int:
    return (last - first) * int(similar[first:last].all(0).sum()) if last > first else 0


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(frames=st.integers(1, 8), longest=st.sampled_from([None, 1, 2, 3]), seed=st.integers(0, 10_000))
def test_windows_are_the_best_of_all_tilings(frames: int, longest: int | None, seed: int) -> None:
    similar = torch.rand(frames - 1, 5, generator=torch.Generator().manual_seed(seed)) < 0.7
    windows, reduced = still_windows(similar, longest)
    tilings = []
    for cuts in itertools.product([False, True], repeat=frames - 1):
        ends = [i for i, cut in enumerate(cuts) if cut] + [frames - 1]
        tiling = [(a + 1, b) for a, b in zip([-1, *ends[:-1]], ends, strict=True)]
        if max(b - a for a, b in tiling) < (longest or frames):
            tilings.append((sum(gain(similar, a, b) for a, b in tiling), [a - b for a, b in tiling[::-1]], tiling))
    best = max(tilings, key=lambda one: one[:2])
    assert reduced == best[0] and windows.tolist() == [list(pair) for pair in best[2]]


def test_windows_end_at_a_cut_and_cover_the_frames() -> None:
    similar = torch.ones(6, 4, dtype=torch.bool)
    assert still_windows(similar)[0].tolist() == [[0, 6]]
    similar[2] = False
    assert still_windows(similar)[0].tolist() == [[0, 2], [3, 6]]
    assert still_windows(similar[:0])[0].tolist() == [[0, 0]]
    assert still_windows(torch.zeros_like(similar))[0].tolist() == [[t, t] for t in range(7)]
