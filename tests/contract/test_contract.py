"""The contract of house and base class, over every registered compressor. Nothing here names one."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import Compressor, VideoTokens

NAMES = framefold.list_compressors()
TRAINABLE = framefold.list_compressors(trainable=True)
RATIOS = [
    0.001,
    0.01,
    0.02,
    0.03,
    0.05,
    0.07,
    0.1,
    0.15,
    0.2,
    0.25,
    0.3,
    0.35,
    0.4,
    0.5,
    0.6,
    0.7,
    0.75,
    0.9,
    0.99,
    1.0,
]
COUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 24, 31, 48, 60, 107, 143, 144, 10_000]
GRIDS = [(1, 1, 1), (2, 1, 1), (1, 3, 3), (9, 1, 4), (5, 4, 1), (4, 3, 5), (3, 7, 2), (12, 3, 4)]
WIDTH = 16

each = pytest.mark.parametrize("name", NAMES)
each_trainable = pytest.mark.parametrize("name", TRAINABLE)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(grid: tuple[int, int, int], kind: str = "drift", seed: int = 0) -> torch.Tensor:
    """(T, H, W, D) features that look like something: a drifting background with a cut and a brief event."""
    t, h, w = grid
    if kind == "zeros":
        return torch.zeros(t, h, w, WIDTH)
    if kind == "constant":
        return noise(WIDTH, seed=seed).expand(t, h, w, WIDTH).clone()
    if kind == "random":
        return noise(t, h, w, WIDTH, seed=seed)
    x = noise(1, h, w, WIDTH, seed=seed) + 0.1 * noise(t, h, w, WIDTH, seed=seed + 1).cumsum(0)
    x[t // 2 :] += noise(h, w, WIDTH, seed=seed + 2)
    x[t // 3, h // 2, w // 2] += 5 * noise(WIDTH, seed=seed + 3)
    return x


def wrap(x: torch.Tensor) -> VideoTokens:
    attention = torch.linspace(0, 1, x.shape[:3].numel()).roll(7)
    return VideoTokens.from_grid(x, times=0.5 * torch.arange(x.shape[0]), attention=attention)


def make(name: str, budget: float | int = 0.25, grid: tuple[int, int] = (3, 4), trained: bool = True) -> Compressor:
    """A compressor with its parameters made and, unless it is to be fresh, moved away from their start."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        compressor = framefold.build(name, budget)
        compressor.materialize(WIDTH, grid)
    if trained:
        for i, parameter in enumerate(compressor.parameters()):
            parameter.data += 0.3 * noise(*parameter.shape, seed=100 + i).to(parameter.dtype)
    return compressor.eval()


def question(compressor: Compressor) -> torch.Tensor | None:
    return noise(5, WIDTH, seed=9) if compressor.query_aware else None


def run(compressor: Compressor, x: torch.Tensor) -> VideoTokens:
    query = question(compressor)
    return compressor(wrap(x), None if query is None else query.to(x.dtype)).tokens


def expected_count(compressor: Compressor, n: int, budget: float | int) -> int:
    if not compressor.exact_budget:
        return n
    return min(n, max(1, round(budget * n))) if isinstance(budget, float) else min(n, budget)


def check_books(out: VideoTokens, grid: tuple[int, int, int]) -> None:
    n, k = math.prod(grid), len(out)
    assert out.grid == grid and out.times.shape == grid[:1]
    assert out.index.dtype == out.size.dtype == out.assign.dtype == torch.int64
    assert out.features.shape == (k, WIDTH) and out.index.shape == out.size.shape == (k,) and out.assign.shape == (n,)
    assert torch.isfinite(out.features).all()
    assert int(out.index[0]) >= 0 and int(out.index[-1]) < n and bool((out.index[1:] > out.index[:-1]).all())
    assert int(out.assign.min()) >= -1 and int(out.assign.max()) < k
    assert torch.equal(torch.bincount(out.assign + 1, minlength=k + 1)[1:], out.size)
    assert bool((out.size > 0).all())
    assert torch.equal(out.assign[out.index], torch.arange(k)), "an anchor stands for another token than its own"


def same(a: VideoTokens, b: VideoTokens) -> bool:
    return all(torch.equal(getattr(a, key), getattr(b, key)) for key in ("features", "index", "size", "assign"))


def test_registry_is_not_empty() -> None:
    assert len(NAMES) >= 6 and TRAINABLE and sorted(NAMES) == NAMES


@each
@pytest.mark.parametrize("budget", [*RATIOS, *COUNTS])
def test_budget_is_exact_and_books_balance(name: str, budget: float | int) -> None:
    compressor, grid = make(name, budget), (12, 3, 4)
    out = run(compressor, features(grid))
    assert len(out) == expected_count(compressor, 144, budget)
    check_books(out, grid)


@each
@pytest.mark.parametrize("kind", ["drift", "random", "constant", "zeros"])
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_and_degenerate_videos(name: str, grid: tuple[int, int, int], kind: str) -> None:
    n = math.prod(grid)
    for budget in sorted({1, 2, n // 3 + 1, n - 1 or 1, n}):
        compressor = make(name, budget, grid[1:])
        out = run(compressor, features(grid, kind))
        assert len(out) == expected_count(compressor, n, budget)
        check_books(out, grid)


@each
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)),
    budget=st.one_of(st.floats(0.001, 1.0), st.integers(1, 400)),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_any_grid_any_budget(
    name: str, grid: tuple[int, int, int], budget: float | int, seed: int, dtype: torch.dtype
) -> None:
    compressor = make(name, budget, grid[1:])
    out = run(compressor, features(grid, seed=seed).to(dtype))
    assert len(out) == expected_count(compressor, math.prod(grid), budget)
    assert out.features.dtype == dtype
    check_books(out, grid)


@each
def test_full_budget_keeps_every_token(name: str) -> None:
    out = run(make(name, 1.0), features((6, 3, 4)))
    assert torch.equal(out.index, torch.arange(72)) and torch.equal(out.size, torch.ones_like(out.index))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtype_and_device_stay(name: str, dtype: torch.dtype) -> None:
    x = features((6, 3, 4)).to(dtype)
    out = run(make(name), x)
    assert out.features.dtype == dtype
    assert {out.features.device, out.index.device, out.size.device, out.assign.device} == {x.device}


@each_trainable
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_dtype(name: str, dtype: torch.dtype) -> None:
    """As bf16-true and DeepSpeed make them; the output keeps the dtype of the input."""
    for x in (features((6, 3, 4)), features((6, 3, 4)).to(dtype)):
        compressor = make(name, trained=False).to(dtype)
        out = run(compressor, x)
        assert out.features.dtype == x.dtype
        out.features.sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in compressor.parameters())


@each
def test_autocast_keeps_the_contract_and_training_free_methods_to_the_bit(name: str) -> None:
    grid, compressor = (6, 3, 4), make(name)
    x = features(grid)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(compressor, x)
    check_books(mixed, grid)
    assert mixed.features.dtype == x.dtype
    assert compressor.trainable or same(mixed, run(compressor, x))


@each
def test_half_precision_selects_like_fp32(name: str) -> None:
    x = features((6, 3, 4)).half()
    assert torch.equal(run(make(name), x).index, run(make(name), x.float()).index)


@each
def test_determinism(name: str) -> None:
    x = features((12, 3, 4))
    first = run(make(name, 0.1), x)
    torch.manual_seed(1234)  # no global random state is read ...
    state = torch.get_rng_state()
    assert same(first, run(make(name, 0.1), x))
    assert torch.equal(state, torch.get_rng_state())  # ... nor moved


@each
def test_videos_do_not_see_each_other(name: str) -> None:
    a, b = features((12, 3, 4)), features((7, 3, 4), seed=50)
    compressor = make(name, 0.2)
    alone = run(compressor, b)
    run(compressor, a)
    assert same(alone, run(compressor, b))
    assert same(alone, run(make(name, 0.2), b))


@each
def test_input_is_not_modified(name: str) -> None:
    video = wrap(features((6, 3, 4)))
    before = copy.deepcopy(video)
    compressor = make(name, 0.3)
    compressor(video, question(compressor))
    assert same(video, before)
    assert torch.equal(video.times, before.times) and torch.equal(video.attention, before.attention)


@each
def test_training_mode_keeps_the_contract(name: str) -> None:
    compressor, grid = make(name, 0.2).train(), (6, 3, 4)
    result = compressor(wrap(features(grid)), question(compressor))
    assert len(result.tokens) == expected_count(compressor, 72, 0.2)
    check_books(result.tokens, grid)
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in result.losses.values())


@each
def test_gradient_reaches_the_features(name: str) -> None:
    x = features((6, 3, 4)).requires_grad_()
    run(make(name, 0.3), x).features.square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and bool((x.grad != 0).any())


@each_trainable
@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "moved"])
@pytest.mark.parametrize("grid", [(6, 3, 4), (1, 3, 4), (5, 1, 1), (1, 1, 1)])
def test_gradients_reach_every_parameter(name: str, grid: tuple[int, int, int], trained: bool) -> None:
    n = math.prod(grid)
    for budget, kind in itertools.product(sorted({1, n // 2 or 1, n}), ("drift", "zeros", "constant")):
        compressor = make(name, budget, grid[1:], trained).train()
        result = compressor(wrap(features(grid, kind)), question(compressor))
        (result.tokens.features.square().sum() + sum(result.losses.values())).backward()
        parameters = dict(compressor.named_parameters())
        assert parameters, "trainable, but it has no parameters after materialize()"
        missing = [key for key, p in parameters.items() if p.requires_grad and p.grad is None]
        assert not missing, f"budget {budget}, {kind}: no gradient for {missing}"
        assert all(torch.isfinite(p.grad).all() for p in parameters.values() if p.grad is not None)


@each_trainable
def test_training_moves_something(name: str) -> None:
    compressor = make(name, 0.3, trained=False).train()
    out = compressor(wrap(features((6, 3, 4))), question(compressor)).tokens.features
    (out * noise(*out.shape, seed=77)).sum().backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in compressor.parameters())


@each
def test_documented_and_described(name: str) -> None:
    compressor = framefold.build(name)
    assert type(compressor).__doc__ and type(compressor).__module__.startswith("framefold.")
    assert "budget=0.25" in repr(compressor)
    assert type(compressor).trainable == bool(list(make(name).parameters()))
