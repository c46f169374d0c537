"""The contract of the base class, checked for every registered compressor. No compressor is named here."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from tests.support.cases import case
from tests.support.contract import (
    COUNTS,
    GRIDS,
    KINDS,
    RATIOS,
    check_tokens,
    expected_count,
    features,
    make,
    question,
    run,
    same,
    wrap,
)
from tests.support.videos import DTYPES, noise

NAMES = framefold.list_compressors()
TRAINABLE = framefold.list_compressors(trainable=True)

each = pytest.mark.parametrize("name", NAMES)
each_trainable = pytest.mark.parametrize("name", TRAINABLE)


def test_every_compressor_is_documented_and_declares_whether_it_is_trainable() -> None:
    assert len(NAMES) >= 6 and TRAINABLE and sorted(NAMES) == NAMES
    offenders = []
    for name in NAMES:
        compressor = make(name)
        cls = type(compressor)
        described = cls.__doc__ and cls.__module__.startswith("framefold.") and "budget=0.25" in repr(compressor)
        if not described or cls.trainable != bool(list(compressor.parameters())):
            offenders.append(name)
    assert not offenders


@each
@torch.no_grad()
def test_budget_is_exact(name: str) -> None:
    compressor, grid = make(name), (12, 3, 4)
    x = features(grid)
    for budget in [*RATIOS, *COUNTS]:
        with case(budget):
            compressor.budget = budget
            out = run(compressor, x)
            assert len(out) == expected_count(compressor, 144, budget)
            check_tokens(out, grid)
    compressor.budget = 1.0
    out = run(compressor, x)
    assert torch.equal(out.index, torch.arange(144)) and torch.equal(out.size, torch.ones_like(out.index))


@each
@torch.no_grad()
def test_small_grids_and_degenerate_videos(name: str) -> None:
    for grid in GRIDS:
        n, compressor = math.prod(grid), make(name, grid=grid[1:])
        for kind, budget in itertools.product(KINDS, sorted({1, 2, n // 3 + 1, n - 1 or 1, n})):
            with case(grid, kind, budget):
                compressor.budget = budget
                out = run(compressor, features(grid, kind))
                assert len(out) == expected_count(compressor, n, budget)
                check_tokens(out, grid)


@each
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)),
    budget=st.one_of(st.floats(0.001, 1.0), st.integers(1, 400)),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(DTYPES),
)
def test_any_grid_any_budget(
    name: str, grid: tuple[int, int, int], budget: float | int, seed: int, dtype: torch.dtype
) -> None:
    compressor = make(name, budget, grid[1:])
    out = run(compressor, features(grid, seed=seed).to(dtype))
    assert len(out) == expected_count(compressor, math.prod(grid), budget)
    assert out.features.dtype == dtype
    check_tokens(out, grid)


@each
def test_dtype_and_autocast_do_not_change_the_selection(name: str) -> None:
    """The output has the dtype of the input, fp16 selects like fp32, and autocast changes no training-free method."""
    grid, compressor = (6, 3, 4), make(name)
    x = features(grid)
    for dtype in DTYPES:
        with case(dtype):
            out = run(compressor, x.to(dtype))
            assert out.features.dtype == dtype
            assert {out.features.device, out.index.device, out.size.device, out.assign.device} == {x.device}
    assert torch.equal(run(compressor, x.half()).index, run(compressor, x.half().float()).index)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(compressor, x)
    check_tokens(mixed, grid)
    assert mixed.features.dtype == x.dtype
    assert compressor.trainable or same(mixed, run(compressor, x))


@each
def test_calls_are_deterministic_and_independent(name: str) -> None:
    compressor, video, other = make(name, 0.2), wrap(features((7, 3, 4), seed=50)), wrap(features((12, 3, 4)))
    before, query = copy.deepcopy(video), question(compressor)
    first = compressor(video, query).tokens
    compressor(other, query)
    torch.manual_seed(1234)  # the global random state is not read ...
    state = torch.get_rng_state()
    assert same(first, compressor(video, query).tokens), "another video has changed the result"
    assert same(first, make(name, 0.2)(video, query).tokens)
    assert torch.equal(state, torch.get_rng_state())  # ... nor changed
    assert same(video, before), "the input was modified"
    assert torch.equal(video.times, before.times) and torch.equal(video.attention, before.attention)


@each
def test_training_mode_keeps_the_contract_and_gradients_reach_the_features(name: str) -> None:
    compressor, grid = make(name, 0.2).train(), (6, 3, 4)
    x = features(grid).requires_grad_()
    result = compressor(wrap(x), question(compressor))
    assert len(result.tokens) == expected_count(compressor, 72, 0.2)
    check_tokens(result.tokens, grid)
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in result.losses.values())
    for tokens in (result.tokens, run(compressor.eval(), x)):
        (gradient,) = torch.autograd.grad(tokens.features.square().sum(), x)
        assert torch.isfinite(gradient).all() and bool((gradient != 0).any())


@each_trainable
def test_weights_may_have_another_dtype_than_the_features(name: str) -> None:
    """As with bf16-true and DeepSpeed; the output keeps the dtype of the input."""
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        for x in (features((6, 3, 4)), features((6, 3, 4)).to(dtype)):
            with case(dtype, x):
                compressor = make(name, trained=False).to(dtype)
                out = run(compressor, x)
                assert out.features.dtype == x.dtype
                out.features.sum().backward()
                assert all(p.grad is not None and p.grad.dtype == dtype for p in compressor.parameters()), dtype


@each_trainable
def test_gradients_reach_every_parameter(name: str) -> None:
    for grid, trained in itertools.product([(6, 3, 4), (1, 3, 4), (5, 1, 1), (1, 1, 1)], (False, True)):
        n = math.prod(grid)
        for budget, kind in itertools.product(sorted({1, n // 2 or 1, n}), ("drift", "zeros", "constant")):
            compressor = make(name, budget, grid[1:], trained).train()
            result = compressor(wrap(features(grid, kind)), question(compressor))
            (result.tokens.features.square().sum() + sum(result.losses.values())).backward()
            parameters = {key: p for key, p in compressor.named_parameters() if p.requires_grad}
            assert parameters, "trainable, but it has no parameters after materialize()"
            missing = [key for key, p in parameters.items() if p.grad is None or not torch.isfinite(p.grad).all()]
            assert not missing, f"{grid}, trained={trained}, budget {budget}, {kind}: no finite gradient for {missing}"


@each_trainable
def test_a_fresh_compressor_gets_gradients_other_than_zero(name: str) -> None:
    compressor = make(name, 0.3, trained=False).train()
    if compressor.in_llm is not None and compressor.in_llm.adds(4):
        return  # its gradients come from inside the language model: test_gradients
    result = compressor(wrap(features((6, 3, 4))), question(compressor))
    # Scores are trained by losses of their own, and a bias through the attention of the host.
    trained = [result.tokens.features, result.scores, result.key_bias]
    sum((out * noise(*out.shape, seed=77)).sum() for out in trained if out is not None).backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in compressor.parameters())
