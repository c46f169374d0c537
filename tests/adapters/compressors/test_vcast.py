"""vcast: the exact rule against a slow reference, and what the release does to budgets."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.vcast import curvature, outlier_scores
from framefold.adapters.reference.vcast import released_frame_budgets
from tests.support.videos import kept_rows, synthetic


def by_the_rule(x: torch.Tensor, k: int) -> list[int]:
    """The rule of the docstring of VCast, frame by frame in fp64."""
    frames = x.double().flatten(1, 2)
    t, p, _ = frames.shape
    f = torch.nn.functional.normalize(frames.mean(1), dim=-1)
    bend = [1.0] * t
    for i in range(1, t - 1):
        bend[i] = 1 - float(torch.cosine_similarity(f[i] - f[i - 1], f[i + 1] - f[i], dim=0, eps=1e-12))
    floor = int(k >= t)
    weight = [math.exp(b / 0.7) for b in bend]
    budgets, free, left = [0] * t, list(range(t)), k - floor * t
    while any(weight[i] * left / sum(weight[j] for j in free) >= p - floor for i in free):
        full = [i for i in free if weight[i] * left / sum(weight[j] for j in free) >= p - floor]
        for i in full:
            budgets[i], left = p - floor, left - (p - floor)
        free = [i for i in free if i not in full]
    quota = {i: weight[i] * left / sum(weight[j] for j in free) for i in free}
    for i in free:
        budgets[i] = int(quota[i])
    rest = left - sum(budgets[i] for i in free)
    for i in sorted(free, key=lambda i: budgets[i] - quota[i])[:rest]:
        budgets[i] += 1
    rows = []
    for i in range(t):
        length = frames[i].norm(dim=-1)
        score = 1 - torch.cosine_similarity(frames[i], f[i][None], dim=-1)
        score += (length - length.min()) / (length.max() - length.min() + 1e-6)
        rows += [i * p + int(j) for j in torch.sort(-score).indices[: budgets[i] + floor]]
    return sorted(rows)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6)),
    seed=st.integers(0, 999),
    k=st.integers(1, 270),
)
def test_exact_against_the_reference(grid, seed, k) -> None:
    x = synthetic(grid, "noise", seed)
    k = min(k, math.prod(grid))
    assert kept_rows("vcast", x, k) == by_the_rule(x, k)


def test_curvature_of_a_line_a_turn_and_a_still_video() -> None:
    line = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [1.0, 0.01]]), dim=-1)
    torch.testing.assert_close(curvature(line), torch.tensor([1.0, 0.0, 2.0, 1.0]), atol=1e-3, rtol=0)
    assert curvature(torch.ones(5, 3)).tolist() == [1.0] * 5


def test_the_release_gives_all_remainders_to_one_frame_and_raises_small_budgets() -> None:
    weights = torch.full((8,), 1 / 8)
    assert released_frame_budgets(weights, 7, 16, 0).tolist() == [7, *[0] * 7]
    assert released_frame_budgets(weights, 7, 4, 0).tolist() == [4, 3, *[0] * 6]
    video = VideoTokens.from_grid(synthetic((8, 4, 4)))
    assert len(framefold.build("vcast", 3, variant="official")(video).tokens) == 8
    assert len(framefold.build("vcast", 3)(video).tokens) == 3
    one = VideoTokens.from_grid(synthetic((1, 4, 4)))
    assert len(framefold.build("vcast", 3, variant="official")(one).tokens) == 16


def test_without_the_norm_the_length_of_a_token_has_no_effect() -> None:
    x = synthetic((3, 2, 3), "noise")
    score = outlier_scores(VideoTokens.from_grid(x), add_norm=False).score
    cosine = torch.cosine_similarity(x.flatten(1, 2), x.flatten(1, 2).mean(1, keepdim=True), dim=-1)
    torch.testing.assert_close(score, 1 - cosine)
