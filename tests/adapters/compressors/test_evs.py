"""evs: the exact rule against a slow reference, the rule of the engines, and the threshold of DTD."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.evs import changes, dissimilarities, evs_official_rows
from framefold.errors import ConfigError
from tests.support.videos import DTYPES, kept_rows, synthetic

grids = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6))
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def frame_counts(rows: list[int], t: int, p: int) -> list[int]:
    return [sum(row // p == frame for row in rows) for frame in range(t)]


def by_the_rule(change: list[list[float]], k: int) -> list[int]:
    """The rule of the docstring of EVS, one token at a time."""
    t, p = len(change), len(change[0])
    total = [sum(change[frame][place] for frame in range(t)) for place in range(p)]
    first = sorted(range(p), key=lambda place: -total[place])
    sharpest = [max(range(p), key=lambda place: change[frame][place]) for frame in range(1, t)]
    later = [(frame + 1, place) for frame, place in enumerate(sharpest)]
    later.sort(key=lambda token: -change[token[0]][token[1]])
    queue = [first[0], *(frame * p + place for frame, place in later)]
    queue += first[1 : max(1, round(k / 4))]
    rest = [(-change[frame][place], frame * p + place) for frame in range(t) for place in range(p)]
    queue += [row for _, row in sorted(rest) if row not in queue]
    return sorted(queue[:k])


@examples
@given(
    grid=grids, kind=st.sampled_from(["drift", "noise", "constant"]), seed=st.integers(0, 999), k=st.integers(1, 270)
)
def test_exact_against_the_reference(grid, kind, seed, k) -> None:
    x = synthetic(grid, kind, seed)
    change = changes(VideoTokens.from_grid(x))
    k = min(k, change.numel())
    assert kept_rows("evs", x, k) == by_the_rule(change.tolist(), k)


def test_change_is_one_minus_the_cosine_and_zero_for_still_tokens() -> None:
    x = synthetic((6, 3, 4))
    x[3] = x[2] * 2.0
    x[4:, 0, 0] = 0
    change = changes(VideoTokens.from_grid(x)).reshape(6, 3, 4)
    cosine = torch.cosine_similarity(x[1:].double(), x[:-1].double(), dim=-1)
    torch.testing.assert_close(change[1:3].double(), 1 - cosine[:2], atol=1e-6, rtol=1e-5)
    assert not change[0].any() and not change[3].any()
    torch.testing.assert_close(change[4, 0, 0], torch.tensor(0.5))  # exactly 0.5 on some processors only
    assert change[5, 0, 0] == 0


def test_small_changes_are_distinguished() -> None:
    """1 - cos would be 0 for both in fp32."""
    x = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    x[..., 0], x[1, 0, 0, 1], x[1, 0, 1, 1] = 1, 1e-5, 2e-5
    torch.testing.assert_close(changes(VideoTokens.from_grid(x))[1], torch.tensor([0.5e-10, 2e-10]), rtol=1e-3, atol=0)


def test_a_small_budget_is_not_spent_on_frame_0_alone() -> None:
    """The engines keep frame 0 alone; exact keeps a quarter of the budget for it and the brief event."""
    x = synthetic((20, 4, 5), "still")
    x[12, 2, 3] = x[0, 0, 0] + 1
    exact, official = kept_rows("evs", x, 0.05), kept_rows("evs", x, 0.05, variant="official")
    assert official == list(range(20)) and len(exact) == 20
    assert 12 * 20 + 13 in exact and frame_counts(exact, 20, 20) == [1] * 20
    assert frame_counts(kept_rows("evs", x, 0.1), 20, 20)[0] == 10  # round(40 / 4)
    assert frame_counts(kept_rows("evs", x, 0.25), 20, 20)[0] == 20


def test_frame_0_keeps_the_positions_that_change() -> None:
    x = torch.ones(10, 2, 4, 4)
    x[5:, 1, 1:3, 0] = -1
    assert [row for row in kept_rows("evs", x, 12) if row < 8] == [0, 5, 6]
    assert [row for row in kept_rows("evs", x, 11) if row < 8] == [5, 6]


def test_frames_with_the_largest_changes_come_first_if_not_all_fit() -> None:
    x = torch.ones(10, 2, 2, 2)
    x[4, 0, 0, 0], x[7, 1, 1, 0] = -1, 0
    assert {row // 4 for row in kept_rows("evs", x, 4)} >= {0, 4, 5}
    assert {row // 4 for row in kept_rows("evs", x, 5)} == {0, 4, 5, 7, 8}


@examples
@given(grid=grids, seed=st.integers(0, 999), q=st.floats(0, 0.99), dtype=st.sampled_from(DTYPES), native=st.booleans())
def test_official_against_torch(grid, seed, q, dtype, native) -> None:
    """Also bit by bit in the dtype of the features, as in a served model."""
    x = synthetic(grid, "drift", seed).to(dtype)
    video = VideoTokens.from_grid(x)
    y = x if native else x.float()
    cosine = torch.cosine_similarity(y[1:], y[:-1], dim=-1)
    score = torch.cat([torch.full_like(y[:1, ..., 0], 255), 1 - cosine]).reshape(grid[0], -1)
    ours = dissimilarities(video, native)
    assert ours.dtype == y.dtype and torch.equal(ours, score)
    count = max(video.per_frame, int(len(video) * (1 - q)))
    expected = sorted(sorted(range(len(video)), key=lambda i: (-score.reshape(-1)[i].item(), i))[:count])
    assert evs_official_rows(ours, q).tolist() == expected
    compressor = framefold.build("evs", 0.4, variant="official", native=native)
    assert compressor(video).tokens.index.tolist() == evs_official_rows(ours, 0.6).tolist()


def test_official_treats_short_vectors_like_the_engines() -> None:
    x = synthetic((4, 2, 3)) * 1e-9
    cosine = torch.cosine_similarity(x[1:], x[:-1], dim=-1)
    assert torch.equal(dissimilarities(VideoTokens.from_grid(x))[1:], (1 - cosine).flatten(1)) and cosine.max() < 0.5


def test_official_counts_a_zero_vector_as_changed_in_every_dtype() -> None:
    x = torch.ones(3, 1, 2, 4)
    x[1:, 0, 1] = 0
    for dtype in DTYPES:
        score = dissimilarities(VideoTokens.from_grid(x.to(dtype)), native=True)
        assert score.tolist() == [[255, 255], [0, 1], [0, 1]]


@examples
@given(grid=grids, kind=st.sampled_from(["drift", "still", "zeros"]), seed=st.integers(0, 999), share=st.floats(0, 1))
def test_threshold_keeps_tokens_unlike_the_previous_frame(grid, kind, seed, share) -> None:
    x = synthetic(grid, kind, seed, width=16)
    p = grid[1] * grid[2]
    cosine = torch.cosine_similarity(x[1:].double(), x[:-1].double(), dim=-1).flatten(1)
    for threshold in (0.25, 0.9, 1.0):
        if not cosine.numel() or (cosine - threshold).abs().min() > 1e-6:
            expected = [*range(p), *(p + (cosine <= threshold).flatten().nonzero()[:, 0]).tolist()]
            assert kept_rows("evs", x, 1, variant="threshold", threshold=threshold) == expected
    rows = kept_rows("evs", x, 0.5, variant="threshold", drop_share=share)
    assert frame_counts(rows, grid[0], p) == [p] + [p - int(share * p)] * (grid[0] - 1)
    assert not framefold.build("evs", variant="threshold").exact_budget


def test_threshold_out_of_range() -> None:
    for params in ({"threshold": 1.5}, {"drop_share": -0.1}, {"variant": "threshold", "native": True}):
        with pytest.raises(ConfigError, match="evs"):
            framefold.build("evs", **params)
