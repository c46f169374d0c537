"""The soft threshold: always the root, however the scores lie, with the derivatives of the implicit function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from framefold.adapters.layers.soft_threshold import threshold
from framefold.adapters.reference.qtsplus import newton
from tests.support.paths import ASSETS

GOLDEN = ASSETS / "golden" / "qtsplus_threshold.npz"
TEMPERATURES = [1e-3, 1e-2, 0.1, 0.5, 1.0, 10.0]


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def excess(scores: Tensor, t: Tensor, count: float, tau: float) -> float:
    """By how many tokens the expectation at t misses the count."""
    return float(torch.sigmoid((scores.double() - t.double()) / tau).sum() - count)


def bisect(scores: Tensor, count: float, tau: float, steps: int = 60) -> float:
    """The root by halving alone, from an interval that holds it whatever the count."""
    reach = 60 * tau
    low, high = float(scores.min()) - reach, float(scores.max()) + reach
    for _ in range(steps):
        middle = (low + high) / 2
        few = excess(scores, torch.tensor(middle, dtype=torch.float64), count, tau) < 0
        low, high = (low, middle) if few else (middle, high)
    return (low + high) / 2


def solve(scores: Tensor, count: float, tau: float) -> Tensor:
    return threshold(scores, torch.tensor(count, dtype=scores.dtype), tau)


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.97])
def test_it_agrees_with_sixty_halvings(tau: float, share: float) -> None:
    for seed, n in enumerate((3, 37, 1001)):
        scores = noise(n, seed)
        t = float(solve(scores, share * n, tau))
        assert t == pytest.approx(bisect(scores, share * n, tau), abs=1e-9)
        assert abs(excess(scores, torch.tensor(t, dtype=torch.float64), share * n, tau)) < 1e-8 * n


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_counts_next_to_none_and_to_all(tau: float) -> None:
    scores = noise(50)
    for count in (1e-9, 1e-3, 50 - 1e-3, 50 - 1e-9):
        t = solve(scores, count, tau)
        assert torch.isfinite(t) and abs(excess(scores, t, count, tau)) < 1e-6 * min(count, 50 - count) + 1e-13


@pytest.mark.parametrize("scores", [torch.zeros(9), torch.full((9,), 1e6), torch.full((9,), -3e4)], ids=str)
def test_equal_scores_share_the_count(scores: Tensor) -> None:
    wide = scores.double()
    for count in (0.5, 4.5, 8.9):
        t = solve(wide, count, 0.5)
        assert float(t) == pytest.approx(float(wide[0]) - 0.5 * np.log(count / (9 - count)), rel=1e-12)


def test_ties_at_the_cut_are_split_by_the_soft_gate() -> None:
    scores = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, -2.0], dtype=torch.float64)
    t = solve(scores, 3.0, 1e-3)
    gates = torch.sigmoid((scores - t) / 1e-3)
    torch.testing.assert_close(gates, torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e8, 1e30])
def test_huge_and_tiny_scores(scale: float) -> None:
    scores = (noise(64) * scale).float()
    t = solve(scores, 16.0, 0.1)
    assert torch.isfinite(t)
    assert float((scores > t).sum()) == 16 or scale < 1  # far apart in units of tau: a plain cut
    if scale < 1:
        assert float(t) == pytest.approx(-0.1 * np.log(16 / 48), rel=1e-5)


@pytest.mark.parametrize("count", [1e-3, 0.5, 0.999])
def test_one_token(count: float) -> None:
    scores = torch.tensor([2.0], dtype=torch.float64)
    assert float(solve(scores, count, 0.1)) == pytest.approx(2.0 - 0.1 * np.log(count / (1 - count)), rel=1e-12)


def test_it_solves_what_newton_alone_diverges_on() -> None:
    with np.load(GOLDEN) as data:
        r, ratios, tau = torch.from_numpy(data["r_3"]), torch.from_numpy(data["rho"]), float(data["tau_3"])
        found = torch.stack([threshold(row, ratio * 32, tau) for row, ratio in zip(r, ratios, strict=True)])
        released = torch.stack([newton(row, ratio * 32, tau) for row, ratio in zip(r, ratios, strict=True)])
        torch.testing.assert_close(found, torch.from_numpy(data["bisect_3_it60"]), rtol=0, atol=1e-6)
    assert float((released - found).abs().max()) > 1e7


@pytest.mark.parametrize("tau", [0.05, 0.5, 3.0])
def test_gradients_of_scores_and_count(tau: float) -> None:
    scores, count = noise(12).requires_grad_(), torch.tensor(3.3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda s, c: threshold(s, c, tau), (scores, count), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("tau", [0.05, 0.5, 3.0])
def test_derivatives_are_those_of_the_implicit_function(tau: float) -> None:
    scores = noise(40).requires_grad_()
    ratio = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    t = threshold(scores, ratio * 40, tau)
    t.backward()
    s = torch.sigmoid((scores.detach() - t.detach()) / tau)
    slope = s * (1 - s)
    torch.testing.assert_close(scores.grad, slope / slope.sum())
    torch.testing.assert_close(ratio.grad, -40 * tau / slope.sum())


@pytest.mark.parametrize("gap", [1e4, 1e30])  # at 1e30 no number lies near enough to a score to open a gate by half
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1e-3, 1.0, 2.0, 3 - 1e-3])
def test_no_gradient_is_nan_where_every_gate_is_open_or_shut(count: float, dtype: torch.dtype, gap: float) -> None:
    scores = torch.tensor([0.1 * gap, gap, 2 * gap], dtype=dtype, requires_grad=True)
    wanted = torch.tensor(count, dtype=dtype, requires_grad=True)
    threshold(scores, wanted, 1e-3).backward()
    assert torch.isfinite(scores.grad).all() and torch.isfinite(wanted.grad)
    assert float(scores.grad.sum()) == pytest.approx(1.0)  # moving all scores moves the threshold with them


def test_counts_in_between_have_a_root_even_if_no_gate_is_half_open() -> None:
    """Where a whole count lies in a gap between scores, any t in the gap will do: the sum is right."""
    scores = torch.tensor([0.0, 0.0, 1e3, 1e3], dtype=torch.float64)
    assert 0 < float(solve(scores, 2.0, 1e-3)) < 1e3
