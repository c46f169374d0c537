"""The soft threshold: it finds the root for any scores, and has the derivatives of the implicit function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from framefold.adapters.layers.soft_threshold import soft_threshold
from framefold.adapters.reference.qtsplus import newton
from tests.support.cases import case
from tests.support.paths import ASSETS

GOLDEN = ASSETS / "golden" / "qtsplus_threshold.npz"
TEMPERATURES = [1e-3, 1e-2, 0.1, 0.5, 1.0, 10.0]


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def excess(scores: Tensor, t: Tensor, count: float, tau: float) -> float:
    """Difference between the expected number of tokens at t and the count."""
    return float(torch.sigmoid((scores.double() - t.double()) / tau).sum() - count)


def bisect(scores: Tensor, count: float, tau: float, steps: int = 60) -> float:
    """The root by bisection alone, starting from an interval that contains it for any count."""
    reach = 60 * tau
    low, high = float(scores.min()) - reach, float(scores.max()) + reach
    for _ in range(steps):
        middle = (low + high) / 2
        few = excess(scores, torch.tensor(middle, dtype=torch.float64), count, tau) < 0
        low, high = (low, middle) if few else (middle, high)
    return (low + high) / 2


def solve(scores: Tensor, count: float, tau: float) -> Tensor:
    return soft_threshold(scores, torch.tensor(count, dtype=scores.dtype), tau)


def test_it_agrees_with_bisection() -> None:
    for tau in TEMPERATURES:
        for share in [0.01, 0.2, 0.5, 0.97]:
            for seed, n in enumerate((3, 37, 1001)):
                with case(tau, share, seed, n):
                    scores = noise(n, seed)
                    t = float(solve(scores, share * n, tau))
                    assert t == pytest.approx(bisect(scores, share * n, tau), abs=1e-9)
                    assert abs(excess(scores, torch.tensor(t, dtype=torch.float64), share * n, tau)) < 1e-8 * n


def test_counts_close_to_zero_and_to_all_tokens() -> None:
    for tau in TEMPERATURES:
        with case(tau):
            scores = noise(50)
            for count in (1e-9, 1e-3, 50 - 1e-3, 50 - 1e-9):
                t = solve(scores, count, tau)
                assert torch.isfinite(t) and abs(excess(scores, t, count, tau)) < 1e-6 * min(count, 50 - count) + 1e-13


def test_equal_scores_have_equal_gates() -> None:
    for scores in [torch.zeros(9), torch.full((9,), 1e6), torch.full((9,), -3e4)]:
        wide = scores.double()
        for count in (0.5, 4.5, 8.9):
            t = solve(wide, count, 0.5)
            assert float(t) == pytest.approx(float(wide[0]) - 0.5 * np.log(count / (9 - count)), rel=1e-12)


def test_tied_scores_have_equal_gates() -> None:
    scores = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, -2.0], dtype=torch.float64)
    t = solve(scores, 3.0, 1e-3)
    gates = torch.sigmoid((scores - t) / 1e-3)
    torch.testing.assert_close(gates, torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5, 0.0], dtype=torch.float64))


def test_huge_and_tiny_scores() -> None:
    for scale in [1e-30, 1e4, 1e8, 1e30]:
        with case(scale):
            scores = (noise(64) * scale).float()
            t = solve(scores, 16.0, 0.1)
            assert torch.isfinite(t)
            assert float((scores > t).sum()) == 16 or scale < 1  # far apart in units of tau: a hard cut
            if scale < 1:
                assert float(t) == pytest.approx(-0.1 * np.log(16 / 48), rel=1e-5)


def test_one_token() -> None:
    for count in [1e-3, 0.5, 0.999]:
        with case(count):
            scores = torch.tensor([2.0], dtype=torch.float64)
            assert float(solve(scores, count, 0.1)) == pytest.approx(2.0 - 0.1 * np.log(count / (1 - count)), rel=1e-12)


def test_it_converges_where_the_newton_steps_of_the_release_diverge() -> None:
    with np.load(GOLDEN) as data:
        r, ratios, tau = torch.from_numpy(data["r_3"]), torch.from_numpy(data["rho"]), float(data["tau_3"])
        found = torch.stack([soft_threshold(row, ratio * 32, tau) for row, ratio in zip(r, ratios, strict=True)])
        released = torch.stack([newton(row, ratio * 32, tau) for row, ratio in zip(r, ratios, strict=True)])
        torch.testing.assert_close(found, torch.from_numpy(data["bisect_3_it60"]), rtol=0, atol=1e-6)
    assert float((released - found).abs().max()) > 1e7


def test_gradients_of_scores_and_count() -> None:
    for tau in [0.05, 0.5, 3.0]:
        with case(tau):
            scores, count = noise(12).requires_grad_(), torch.tensor(3.3, dtype=torch.float64, requires_grad=True)
            torch.autograd.gradcheck(
                lambda s, c, tau=tau: soft_threshold(s, c, tau), (scores, count), eps=1e-6, atol=1e-6
            )


def test_derivatives_are_those_of_the_implicit_function() -> None:
    for tau in [0.05, 0.5, 3.0]:
        with case(tau):
            scores = noise(40).requires_grad_()
            ratio = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
            t = soft_threshold(scores, ratio * 40, tau)
            t.backward()
            s = torch.sigmoid((scores.detach() - t.detach()) / tau)
            slope = s * (1 - s)
            torch.testing.assert_close(scores.grad, slope / slope.sum())
            torch.testing.assert_close(ratio.grad, -40 * tau / slope.sum())


def test_gradients_are_finite_even_if_all_gates_are_saturated() -> None:
    for gap in [1e4, 1e30]:
        for dtype in [torch.float32, torch.float64]:
            for count in [1e-3, 1.0, 2.0, 3 - 1e-3]:
                with case(gap, dtype, count):
                    scores = torch.tensor([0.1 * gap, gap, 2 * gap], dtype=dtype, requires_grad=True)
                    target = torch.tensor(count, dtype=dtype, requires_grad=True)
                    soft_threshold(scores, target, 1e-3).backward()
                    assert torch.isfinite(scores.grad).all() and torch.isfinite(target.grad)
                    assert float(scores.grad.sum()) == pytest.approx(1.0)  # shifting all scores shifts the threshold


def test_an_integer_count_in_a_gap_between_scores() -> None:
    """Every t in the gap gives the right sum."""
    scores = torch.tensor([0.0, 0.0, 1e3, 1e3], dtype=torch.float64)
    assert 0 < float(solve(scores, 2.0, 1e-3)) < 1e3
