"""dycoke: the exact rule against a slow reference, and the frames that the release treats otherwise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.dycoke import released_references
from framefold.errors import ConfigError
from tests.support.videos import kept_rows, synthetic


def by_the_rule(x: torch.Tensor, k: int) -> list[int]:
    """The rule of the docstring of DyCoke, one token at a time."""
    unit = torch.nn.functional.normalize(x.double().flatten(1, 2), dim=-1)
    t, p, _ = unit.shape
    kept, frames = set(range(t * p)), list(range(t))
    while len(kept) > k and len(frames) > 1:
        change = {}
        for i, frame in enumerate(frames):
            if i % 4:
                other = frames[i - 1 if i % 2 else i - 2]
                for place in range(p):
                    change[frame * p + place] = 1 - float(unit[frame, place] @ unit[other, place])
        for row in sorted(change, key=lambda row: change[row])[: len(kept) - k]:
            kept.remove(row)
        frames = frames[::4]
    return sorted(kept)[:k]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 19), st.integers(1, 3), st.integers(1, 4)),
    seed=st.integers(0, 999),
    k=st.integers(1, 230),
)
def test_exact_against_the_reference(grid, seed, k) -> None:
    x = synthetic(grid, "noise", seed)
    k = min(k, math.prod(grid))
    assert kept_rows("dycoke", x, k) == by_the_rule(x, k)


def test_an_odd_last_frame_and_a_single_frame_are_kept() -> None:
    assert max(kept_rows("dycoke", synthetic((9, 2, 3)), 40)) >= 48
    assert kept_rows("dycoke", synthetic((1, 2, 3)), 4) == [0, 1, 2, 3]
    assert kept_rows("dycoke", synthetic((9, 2, 3)), 1) == [0]
    still = synthetic((1, 2, 3)).expand(6, 2, 3, 8)
    assert kept_rows("dycoke", still, 15) == [*range(9), *range(24, 30)]  # ties go to the lower index


def test_the_release_loses_the_last_of_an_odd_number_of_frames() -> None:
    assert released_references(9) == [None, 0, 0, 2, None, 4, 4, 6]
    assert released_references(8) == [None, 0, 0, 2, None, 4, None, 6]
    video = VideoTokens.from_grid(synthetic((9, 2, 3)))
    out = framefold.build("dycoke", variant="official", drop_share=0.5)(video).tokens
    assert len(out) == 2 * 6 + 6 * 3 and bool((out.assign[-6:] == -1).all())
    with pytest.raises(ConfigError, match="drop_share"):
        framefold.build("dycoke", drop_share=1.5)
