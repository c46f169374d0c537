"""Synthetic videos, compressors and checks for tests that iterate the registry."""

from __future__ import annotations

import math

import torch

import framefold
from framefold import Compressor, VideoTokens
from framefold.adapters.core.language_model import LanguageModelShape
from tests.support.videos import noise

WIDTH = 16
LANGUAGE_MODEL = LanguageModelShape(layers=4, width=WIDTH, heads=4, kv_heads=2, head_width=6)
RATIOS = [0.001, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25]
RATIOS += [0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.75, 0.9, 0.99, 1.0]
COUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 24, 31, 48, 60, 107, 143, 144, 10_000]
GRIDS = [(1, 1, 1), (2, 1, 1), (1, 3, 3), (9, 1, 4), (5, 4, 1), (4, 3, 5), (3, 7, 2), (12, 3, 4)]
KINDS = ["drift", "random", "constant", "zeros"]


def features(grid: tuple[int, int, int], kind: str = "drift", seed: int = 0) -> torch.Tensor:
    """(T, H, W, D) features; "drift" resembles a video: a drifting background with a cut and a brief event."""
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
    """A video with times and received attention."""
    attention = torch.linspace(0, 1, x.shape[:3].numel()).roll(7)
    return VideoTokens.from_grid(x, times=0.5 * torch.arange(x.shape[0]), attention=attention)


def make(name: str, budget: float | int = 0.25, grid: tuple[int, int] = (3, 4), trained: bool = True) -> Compressor:
    """A compressor in eval mode with its parameters created and, if ``trained``, moved away from their start."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        compressor = framefold.build(name, budget)
        compressor.materialize(WIDTH, grid)
        compressor.materialize_in_llm(LANGUAGE_MODEL)
    if trained:
        for i, parameter in enumerate(compressor.parameters()):
            parameter.data += 0.3 * noise(*parameter.shape, seed=100 + i).to(parameter.dtype)
    return compressor.eval()


def question(compressor: Compressor) -> torch.Tensor | None:
    return noise(5, WIDTH, seed=9) if compressor.query_aware else None


def run(compressor: Compressor, x: torch.Tensor) -> VideoTokens:
    query = question(compressor)
    return compressor(wrap(x), None if query is None else query.to(x.dtype)).tokens


def expected_count(compressor: Compressor, n: int, budget: float | int, per_frame: int = 12) -> int:
    if not compressor.exact_budget:
        return n
    k = min(n, max(1, round(budget * n))) if isinstance(budget, float) else min(n, budget)
    return compressor.entering(k, n, per_frame)  # k, unless it reduces tokens inside the language model, too


def check_tokens(out: VideoTokens, grid: tuple[int, int, int]) -> None:
    """Assert that features, anchors, sizes and assignment of compressed tokens are consistent."""
    n, k = math.prod(grid), len(out)
    assert out.grid == grid and out.times.shape == grid[:1]
    assert out.index.dtype == out.size.dtype == out.assign.dtype == torch.int64
    assert out.features.shape == (k, WIDTH) and out.index.shape == out.size.shape == (k,) and out.assign.shape == (n,)
    assert torch.isfinite(out.features).all()
    assert int(out.index[0]) >= 0 and int(out.index[-1]) < n and bool((out.index[1:] > out.index[:-1]).all())
    assert int(out.assign.min()) >= -1 and int(out.assign.max()) < k
    assert torch.equal(torch.bincount(out.assign + 1, minlength=k + 1)[1:], out.size)
    assert bool((out.size > 0).all())
    assert torch.equal(out.assign[out.index], torch.arange(k)), "an anchor is assigned to another token"


def same(a: VideoTokens, b: VideoTokens) -> bool:
    return all(torch.equal(getattr(a, key), getattr(b, key)) for key in ("features", "index", "size", "assign"))
