"""vidcom2: its steps in fp64 and token by token, the rules of the engines and the authors, and the exact rule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors import vidcom2
from framefold.adapters.ops.similarity import Frames, steady_channels
from tests.support.videos import kept_rows, synthetic

grids = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6))
examples = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def similarities_of(x: torch.Tensor, native: bool = False) -> vidcom2.MeanSimilarities:
    return vidcom2.mean_similarities(Frames(VideoTokens.from_grid(x), native))


def plain(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Channels, and (T, P) similarities with the means of video and frame, computed for all frames at once."""
    x = x.flatten(1, 2)
    variance = x.flatten(0, 1).var(0, correction=0)
    channels = variance.argsort(stable=True)[: max(1, int(0.5 * x.shape[-1]))].sort().values
    y = x[..., channels]
    y = y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    def kernel(centre: torch.Tensor) -> torch.Tensor:
        distance = (y - centre).square().sum(-1)
        return sum(torch.exp(-distance / (2 * alpha)) for alpha in (0.125, 0.25, 0.5, 1, 2))

    return channels, kernel(y.mean((0, 1))), kernel(y.mean(1, keepdim=True))


def by_the_rule(r: list[list[float]], budgets: list[int], k: int, protect: bool) -> list[int]:
    """Step 4 of the docstring, one token at a time."""
    p = len(r[0])
    cost = [value for frame in r for value in frame]
    rows = [sorted(range(t * p, t * p + p), key=lambda i: (cost[i], i)) for t in range(len(r))]
    stay = [row for frame, budget in zip(rows, budgets, strict=True) for row in frame[:budget]]
    out = [row for row in range(len(cost)) if row not in stay]
    stay += sorted(out, key=lambda i: (cost[i], i))[: max(0, k - len(stay))]
    best = {frame[0] for frame in rows} if protect else set()
    for row in sorted(stay, key=lambda i: (i not in best, cost[i], i))[k:]:
        stay.remove(row)
    return sorted(stay)


@examples
@given(grid=grids, kind=st.sampled_from(["drift", "noise", "still"]), seed=st.integers(0, 999), width=st.integers(1, 9))
def test_steps_one_and_two_in_fp64(grid, kind, seed, width) -> None:
    x = synthetic(grid, kind, seed, width) + 0.1
    channels, to_video, to_frame = plain(x.double())
    variance = vidcom2.channel_variances(Frames(VideoTokens.from_grid(x)))
    torch.testing.assert_close(variance.double(), x.double().flatten(0, 2).var(0, correction=0), atol=1e-9, rtol=1e-4)
    gaps = variance.sort().values.diff()
    if len(gaps) and gaps.min() < 1e-6:
        return  # rounding decides which channels
    assert steady_channels(variance).tolist() == channels.tolist()
    ours = similarities_of(x)
    torch.testing.assert_close(ours.to_video.double(), to_video, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.to_frame.double(), to_frame, atol=1e-5, rtol=0)


@examples
@given(grid=grids, seed=st.integers(0, 999), ratio=st.floats(0.01, 1.0))
def test_selection_against_the_reference(grid, seed, ratio) -> None:
    x = synthetic(grid, "drift", seed)
    similarity, n, p = similarities_of(x), math.prod(grid), grid[1] * grid[2]
    redundancy = (similarity.to_video + similarity.to_frame).tolist()
    q = 1 - ratio
    budgets = vidcom2.frame_budgets(similarity.weights, 1 - q, p).tolist()
    count = max(grid[0], min(int(n * (1 - q)), n))
    assert kept_rows("vidcom2", x, ratio, variant="official") == by_the_rule(redundancy, budgets, count, protect=False)
    authors = by_the_rule(redundancy, budgets, sum(budgets), protect=False)
    assert vidcom2.authors_rows(similarity, q).tolist() == authors
    k = min(n, max(1, round(ratio * n)))
    budgets = vidcom2.frame_budgets(similarity.weights, k / n, p).tolist()
    assert kept_rows("vidcom2", x, ratio) == by_the_rule(redundancy, budgets, k, protect=True)


def test_frame_budgets() -> None:
    """A distinctive frame gets up to twice the ratio, the others a little less; halves are rounded to even."""
    one_hot, even = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.full((4,), 0.25)
    assert vidcom2.frame_budgets(one_hot, 0.4, 100).tolist() == [30, 70, 30, 30]
    assert vidcom2.frame_budgets(one_hot, 0.8, 100).tolist() == [60, 100, 60, 60]
    assert vidcom2.frame_budgets(even, 0.5, 5).tolist() == [2] * 4
    assert vidcom2.frame_budgets(even, 0.5, 7).tolist() == [4] * 4
    assert vidcom2.frame_budgets(even, 0.001, 5).tolist() == [1] * 4


def test_weights_favour_the_distinctive_frame() -> None:
    x = synthetic((8, 3, 4), "constant") + 0.1 * synthetic((8, 3, 4), "noise")
    x[5] -= 2 * synthetic((1, 3, 4), "constant")[0]
    weights = similarities_of(x).weights
    assert weights.argmax() == 5 and weights[5] > 0.99 and float(weights.sum()) == pytest.approx(1)
    similarity = vidcom2.MeanSimilarities(torch.tensor([[1.0], [1.01]]), torch.zeros(2, 1))
    torch.testing.assert_close(similarity.weights[0] / similarity.weights[1], torch.tensor(math.e), rtol=1e-4, atol=0)
    rows = kept_rows("vidcom2", x, 0.25)
    per_frame = torch.bincount(torch.tensor(rows) // 12, minlength=8)
    assert per_frame.argmax() == 5 and per_frame[5] == 6  # round(0.25 * (2 - 1/8) * 12)


def test_official_may_empty_a_frame_and_exact_never_does() -> None:
    emptied = 0
    for seed in range(30):
        x = synthetic((9, 4, 9), "noise", seed)
        official = torch.tensor(kept_rows("vidcom2", x, 0.05, variant="official"))
        emptied += len(set((official // 36).tolist())) < 9
        assert len(official) == 16
        assert len({row // 36 for row in kept_rows("vidcom2", x, 16)}) == 9
    assert emptied


def test_ties_go_to_the_lower_position_of_each_frame() -> None:
    x = torch.ones(4, 2, 3, 8)
    for variant in ("exact", "official"):
        assert kept_rows("vidcom2", x, 0.5, variant=variant) == [6 * t + place for t in range(4) for place in range(3)]
    assert kept_rows("vidcom2", x, 9) == [0, 1, 2, 6, 7, 12, 13, 18, 19]
    assert kept_rows("vidcom2", x, 2) == [0, 6]


def test_native_computes_in_the_dtype_of_the_features() -> None:
    x = synthetic((6, 3, 4), "noise", width=32)
    for dtype, tolerance in ((torch.bfloat16, 0.06), (torch.float16, 0.01), (torch.float64, 1e-12)):
        ours = similarities_of(x.to(dtype), native=True)
        _, to_video, to_frame = plain(x.to(dtype))
        assert ours.to_video.dtype == ours.weights.dtype == dtype
        torch.testing.assert_close(ours.to_video, to_video, atol=tolerance, rtol=0)
        torch.testing.assert_close(ours.to_frame, to_frame, atol=tolerance, rtol=0)


def test_zero_vectors_are_finite() -> None:
    x = synthetic((4, 2, 3))
    x[1], x[2, 0, 0] = 0, 0
    for dtype in (torch.float16, torch.float32):
        similarity = similarities_of(x.to(dtype), native=True)
        assert torch.isfinite(similarity.redundancy).all() and torch.isfinite(similarity.weights).all()


def test_tokens_dissimilar_to_their_frame_are_kept() -> None:
    x = synthetic((6, 4, 4), "still")
    x[3, 1, 2, :] = synthetic((1, 1, 1), "noise", seed=3)[0, 0, 0]
    assert 3 * 16 + 6 in framefold.build("vidcom2", 6)(VideoTokens.from_grid(x)).tokens.index
