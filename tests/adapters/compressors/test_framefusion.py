"""framefusion: the exact rule against a slow reference, and the first step of the release."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.framefusion import FusionState, fusion_step
from framefold.errors import ConfigError, InputError
from tests.support.videos import synthetic

grids = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 5))
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def runs_by_the_rule(x: torch.Tensor, k: int) -> list[list[int]]:
    """The groups of tokens, one join at a time."""
    frames, height, width, _ = x.shape
    cells = height * width
    flat = x.reshape(frames * cells, -1).double()
    cosine = torch.cosine_similarity(flat[cells:], flat[:-cells], dim=-1).tolist()
    order = sorted(range(len(cosine)), key=lambda row: -cosine[row])
    joined = {row + cells for row in order[: len(flat) - k]}
    runs: dict[int, list[int]] = {}
    for row in range(len(flat)):
        start = row
        while start in joined:
            start -= cells
        runs.setdefault(start, []).append(row)
    return list(runs.values())


@examples
@given(grid=grids, kind=st.sampled_from(["drift", "noise"]), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_exact_against_the_reference(grid, kind, seed, share) -> None:
    x = synthetic(grid, kind, seed)
    cells, n = grid[1] * grid[2], grid[0] * grid[1] * grid[2]
    k = cells + round(share * (n - cells))
    out = framefold.build("framefusion", k)(VideoTokens.from_grid(x)).tokens
    expected = runs_by_the_rule(x, k)
    assert {tuple((out.assign == row).nonzero()[:, 0].tolist()) for row in range(k)} == set(map(tuple, expected))
    for run in expected:
        row = int(out.assign[run[0]])
        torch.testing.assert_close(out.features[row], x.reshape(n, -1)[run].mean(0), atol=1e-5, rtol=1e-5)
        assert out.index[row] == run[(len(run) - 1) // 2]


def test_a_still_video_gives_one_token_a_place_and_ties_join_from_the_start() -> None:
    x = synthetic((1, 2, 2)).expand(5, 2, 2, 8).clone()
    still = framefold.build("framefusion", 4)(VideoTokens.from_grid(x)).tokens
    assert still.index.tolist() == [8, 9, 10, 11] and still.size.tolist() == [5] * 4
    torch.testing.assert_close(still.features, x[0].reshape(4, 8))
    tied = framefold.build("framefusion", 18)(VideoTokens.from_grid(x)).tokens
    assert tied.size.tolist() == [2, 2, *[1] * 16] and tied.assign[4:6].tolist() == [0, 1]


def test_a_budget_below_a_frame_merges_places_over_the_whole_video() -> None:
    x = synthetic((6, 4, 4), "noise")
    out = framefold.build("framefusion", 4)(VideoTokens.from_grid(x)).tokens
    quarters = x.reshape(6, 2, 2, 2, 2, 8).mean((0, 2, 4)).reshape(4, 8)
    torch.testing.assert_close(out.features, quarters, atol=1e-5, rtol=1e-5)
    assert out.size.tolist() == [24] * 4


def test_official_merges_at_most_what_is_similar() -> None:
    still, moving = synthetic((8, 3, 3), "still"), synthetic((8, 3, 3), "noise")
    official = framefold.build("framefusion", 0.3, variant="official")
    assert len(official(VideoTokens.from_grid(still)).tokens) == 72 - int(0.7 * 72)
    out = official(VideoTokens.from_grid(moving)).tokens
    cosine = torch.cosine_similarity(moving[1:], moving[:-1], dim=-1)
    assert len(out) == 72 - int((cosine >= 0.6).sum())
    first = [int((out.assign == row).nonzero()[0]) for row in range(len(out))]
    assert out.index.tolist() == first


def test_the_release_prunes_with_the_attention_of_its_layer() -> None:
    places = torch.tensor([-1, 0, 1, 0, 1, -1])
    hidden = synthetic((1, 1, 6), "noise")[0, 0]
    with pytest.raises(InputError, match="attention"):
        fusion_step(hidden, places, None, FusionState((0.0,), merged=True), 0.5)
    attention = torch.tensor([0.3, 0.1, 0.2, 0.05, 0.25, 0.1])
    state = FusionState((), merged=True)
    out, kept, state = fusion_step(hidden, places, attention, state, 0.5)
    assert kept.tolist() == [0, 2, 4, 5] and state.pruned and torch.equal(out, hidden[kept])
    assert fusion_step(out, places[kept], None, state, 0.5)[1].tolist() == [0, 1, 2, 3]


def test_settings_out_of_range_are_refused() -> None:
    for params in ({"variant": "released"}, {"tau": 1.5}):
        with pytest.raises(ConfigError, match="framefusion"):
            framefold.build("framefusion", **params)
