"""What evs and vidcom2 promise alike: exact counts, nothing decided by scale or dtype, and the engines' settings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.base.frame_pruner import engine_token_count
from framefold.adapters.ops.selection import rank_in_frame, select_by_stage
from framefold.adapters.ops.similarity import Frames, normalize
from framefold.errors import BudgetError, ConfigError
from framefold.evaluation.metrics.memory import peak_tensor_bytes
from tests.support.yardstick import median_ratio

NAMES = ["evs", "vidcom2"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]

each = pytest.mark.parametrize("name", NAMES)
videos = given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6)),
    kind=st.sampled_from(["drift", "noise", "still", "constant", "zeros"]),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    budget=st.one_of(st.floats(0.001, 1.0), st.integers(1, 300)),
)
examples = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def made(grid: tuple[int, int, int], kind: str = "drift", seed: int = 0, width: int = 8) -> torch.Tensor:
    """A (T, H, W, D) video: drifting with a cut, noise, all but still, of one vector, or of zeros."""
    t, h, w = grid
    g = torch.Generator().manual_seed(seed)
    if kind in ("constant", "zeros"):
        return torch.randn(width, generator=g).expand(t, h, w, width).clone() * (kind == "constant")
    if kind == "noise":
        return torch.randn(t, h, w, width, generator=g)
    rate = 0.2 if kind == "drift" else 0.001
    x = torch.randn(1, h, w, width, generator=g) + rate * torch.randn(t, h, w, width, generator=g).cumsum(0)
    x[t // 2 :] += torch.randn(h, w, width, generator=g) * (kind == "drift")
    return x


def kept(name: str, x: torch.Tensor, budget: float | int, **params) -> list[int]:
    return framefold.build(name, budget, **params)(VideoTokens.from_grid(x)).tokens.index.tolist()


@each
@examples
@videos
def test_exactly_k_tokens_unchanged_and_every_frame_has_one(name, grid, kind, seed, dtype, budget) -> None:
    x, n = made(grid, kind, seed).to(dtype), math.prod(grid)
    k = min(n, max(1, round(budget * n))) if isinstance(budget, float) else min(n, budget)
    out = framefold.build(name, budget)(VideoTokens.from_grid(x)).tokens
    assert len(out) == k and bool((out.index[1:] > out.index[:-1]).all())
    assert torch.equal(out.features, x.flatten(0, 2)[out.index]) and bool((out.size == 1).all())
    assert out.assign[out.index].tolist() == list(range(k)) and int((out.assign < 0).sum()) == n - k
    per_frame = torch.bincount(out.index // math.prod(grid[1:]), minlength=grid[0])
    assert int((per_frame > 0).sum()) == min(k, grid[0])  # also where not all can have one: nobody has two then
    assert kept(name, x, 1.0) == list(range(n))


@each
@examples
@videos
def test_scale_and_dtype_decide_nothing(name, grid, kind, seed, dtype, budget) -> None:
    x = made(grid, kind, seed).to(dtype)
    plain = kept(name, x, budget)
    assert plain == kept(name, x.double(), budget) == kept(name, x.float(), budget)
    wide = x.float()
    for exponent in (-100, -3, 30):
        assert plain == kept(name, wide * 2.0**exponent, budget)
    for exponent in (-1020, 900):
        assert plain == kept(name, wide.double() * 2.0**exponent, budget)


@each
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("kind", ["drift", "constant", "zeros"])
def test_official_takes_every_dtype(name: str, dtype: torch.dtype, native: bool, kind: str) -> None:
    x = made((5, 3, 4), kind).to(dtype)
    x[1:3, 0, 0] = 0
    out = framefold.build(name, 0.5, variant="official", native=native)(VideoTokens.from_grid(x)).tokens
    assert len(out) == 30 and out.features.dtype == dtype


@each
def test_a_budget_of_official_is_one_minus_the_literal_rate(name: str) -> None:
    video = VideoTokens.from_grid(made((10, 2, 5)))  # all tokens of frame 0, or one of each frame: 10 in both methods
    for percent in range(1, 100):
        compressor = framefold.build(name, percent / 100, variant="official")
        assert compressor.pruning_rate() == (100 - percent) / 100
        assert len(compressor(video).tokens) == engine_token_count(100, (100 - percent) / 100, 10)


def test_engine_token_count_is_computed_in_fp64_in_the_order_of_the_engines() -> None:
    for tokens, q, at_least, expected in [
        (160, 0.8, 20, 31), (160, 0.8, 8, 31), (80, 0.75, 20, 20), (20, 0.5, 20, 20), (180, 0.999, 20, 20),
        (160, 0.99, 8, 8), (20, 0.999, 1, 1), (160, 0.0, 20, 160), (160, 0.0, 8, 160),
    ]:  # fmt: skip
        assert engine_token_count(tokens, q, at_least) == expected, (tokens, q, at_least)


@each
def test_official_refuses_a_number_of_tokens(name: str) -> None:
    with pytest.raises(BudgetError, match=r"give the budget as a ratio.*got 12"):
        framefold.build(name, 12, variant="official")
    compressor = framefold.build(name, 0.5, variant="official")
    compressor.budget = 12
    with pytest.raises(BudgetError, match="ratio"):
        compressor(VideoTokens.from_grid(made((3, 2, 2))))


@each
def test_settings_that_do_not_go_together(name: str) -> None:
    with pytest.raises(ConfigError, match="native=True needs variant=.official."):
        framefold.build(name, native=True)
    with pytest.raises(ConfigError, match="variant must be"):
        type(framefold.build(name))(variant="oficial")
    assert framefold.build(name).exact_budget and not framefold.build(name, variant="official").exact_budget


@each
def test_settings_are_saved(name: str, tmp_path) -> None:
    framefold.build(name, 0.3, variant="official", native=True).save_pretrained(tmp_path)
    loaded = framefold.load(tmp_path)
    assert loaded.params() == {"variant": "official", "native": True} and not loaded.exact_budget


@each
def test_official_measures_in_fp32_or_in_the_dtype_of_the_features(name: str) -> None:
    x = made((16, 4, 4), "noise", width=32).bfloat16()
    official = kept(name, x, 0.5, variant="official")
    assert official == kept(name, x.float(), 0.5, variant="official")
    assert official != kept(name, x, 0.5, variant="official", native=True)
    native = kept(name, x.half(), 0.5, variant="official", native=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert official == kept(name, x, 0.5, variant="official")
        assert native == kept(name, x.half(), 0.5, variant="official", native=True)  # two 16-bit dtypes do not mix


def test_normalize_leaves_zeros_and_counts_short_rows_as_the_floor() -> None:
    for dtype in DTYPES:
        x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype)
        assert normalize(x, 1e-12).tolist() == torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=dtype).tolist()
    assert normalize(torch.tensor([[1e-9, 0.0]]), 1e-8).tolist() == [[pytest.approx(0.1), 0.0]]


def test_frames_in_their_dtype_in_fp32_or_rescaled() -> None:
    video = VideoTokens.from_grid(made((3, 2, 2)).double() * 2.0**500)
    assert [frame.dtype for frame in Frames(video, native=True)] == [torch.float64] * 3
    assert all(torch.isinf(frame).all() for frame in Frames(video))
    frames = Frames(video, rescale=True)
    assert 0.5 <= max(float(frame.abs().max()) for frame in frames) < 1
    assert len(list(frames)) == len(list(frames)) == 3  # as often as needed


def test_select_by_stage_then_cost_then_row() -> None:
    stage, cost = torch.tensor([[1, 0, 1], [0, 2, 1]]), torch.tensor([[5.0, 9.0, 3.0], [9.0, 0.0, 3.0]])
    assert [select_by_stage(stage, cost, k).tolist() for k in (1, 2, 3, 4, 5)] == [
        [1], [1, 3], [1, 2, 3], [1, 2, 3, 5], [0, 1, 2, 3, 5],
    ]  # fmt: skip


def test_rank_in_frame() -> None:
    assert rank_in_frame(torch.tensor([[2.0, 1.0, 2.0], [0.0, 0.0, -1.0]])).tolist() == [[1, 0, 2], [1, 2, 0]]


@each
@pytest.mark.parametrize("variant", ["exact", "official"])
def test_time_and_memory_against_the_yardstick(name: str, variant: str) -> None:
    """Measured 0.6 (evs) and 1.5 (vidcom2) yardsticks; the bounds leave room for a busy machine."""
    x = torch.randn(64, 14, 14, 1024, generator=torch.Generator().manual_seed(0))
    video, compressor = VideoTokens.from_grid(x), framefold.build(name, 0.25, variant=variant)
    assert median_ratio(lambda: compressor(video), x) < {"evs": 4, "vidcom2": 10}[name]
    peak = peak_tensor_bytes(lambda: compressor(video), x)
    assert x.nbytes / 4 < peak < x.nbytes / 2  # the output, a quarter of the input, is among it
