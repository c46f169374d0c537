"""Density-peaks scores against loops over points."""

from __future__ import annotations

import math

import pytest
import torch

from framefold.adapters.ops.density_peaks import density_peaks, scaled_distances
from tests.support.videos import noise


def slow_scores(points: torch.Tensor, m: int, include_self: bool) -> list[float]:
    """log(rho * delta) of one set, written out."""
    n = len(points)
    d = [[float((points[i] - points[j]).double().norm()) / points.shape[1] ** 0.5 for j in range(n)] for i in range(n)]
    near = [sorted(d[i][j] for j in range(n) if include_self or j != i)[:m] for i in range(n)]
    density = [-sum(x * x for x in row) / max(1, len(row)) for row in near]
    far = max(max(row) for row in d)
    away = [min([d[i][j] for j in range(n) if density[j] > density[i]], default=far) for i in range(n)]
    return [rho + math.log(delta) for rho, delta in zip(density, away, strict=True)]


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("m", [1, 4, 30])
def test_scores_are_those_of_a_loop(m: int, include_self: bool) -> None:
    points = noise(2, 12, 6, seed=3)
    found = density_peaks(scaled_distances(points), m, include_self)
    for b in range(2):
        expected = torch.tensor(slow_scores(points[b], m, include_self))
        torch.testing.assert_close(found[b], expected, atol=1e-5, rtol=1e-5)


def test_nearest_neighbours_of_each_other_are_equally_dense() -> None:
    """Otherwise rounding would decide which of the two is a centre."""
    distance = scaled_distances(noise(20, 13, 12, seed=5))
    assert torch.equal(distance, distance.transpose(1, 2))
    score = density_peaks(distance, 2)
    nearest = distance.masked_fill(torch.eye(13, dtype=torch.bool), torch.inf)
    pair = nearest.flatten(1).argmin(1)  # the two points of the least distance are the densest
    assert torch.equal(*(score.gather(1, row[:, None]) for row in (pair // 13, pair % 13)))


def test_points_that_are_not_valid_change_nothing() -> None:
    points, valid = noise(1, 12, 6, seed=4), torch.arange(12)[None] % 3 != 1
    found = density_peaks(scaled_distances(points), 4, valid=valid)
    alone = density_peaks(scaled_distances(points[:, valid[0]]), 4)
    torch.testing.assert_close(found[valid], alone[0], atol=1e-5, rtol=1e-5)
    assert bool((found[~valid] == -torch.inf).all())


def test_equal_points_tie_and_large_distances_do_not_underflow() -> None:
    equal = density_peaks(scaled_distances(noise(1, 1, 6).expand(1, 9, 6) * 100), 4)
    assert bool((equal == equal[0, 0]).all() and equal.isfinite().all())
    apart = density_peaks(scaled_distances(noise(1, 9, 6, seed=5) * 1e4), 4)
    assert len(apart.unique()) == 9
    assert bool(density_peaks(torch.zeros(1, 1, 1), 4, include_self=False).isfinite().all())
