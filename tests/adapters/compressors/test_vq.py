"""vq: spherical k-means against a slow reference, segments, time, and copies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.ops.kmeans import block_kmeans, kmeans
from framefold.errors import ConfigError
from tests.support.videos import noise, synthetic


def compress(x: torch.Tensor, budget: float | int, **params) -> VideoTokens:
    return framefold.build("vq", budget, **params)(VideoTokens.from_grid(x)).tokens


def by_the_rule(x: torch.Tensor, k: int, rounds: int) -> list[set[int]]:
    """Clusters by the docstring of VQ, one token at a time, for videos in which no cluster becomes empty."""
    unit = [token / token.norm() for token in x.double()]
    seeds = [0]
    while len(seeds) < k:
        seeds.append(max(range(len(unit)), key=lambda i: min(float(1 - unit[i] @ unit[s]) for s in seeds)))
    centres, labels = [unit[s] for s in seeds], []
    for _ in range(rounds + 1):
        new = [max(range(k), key=lambda c, u=u: float(u @ centres[c])) for u in unit]
        if new == labels:
            break
        labels = new
        sums = [sum(u for u, label in zip(unit, labels, strict=True) if label == c) for c in range(k)]
        centres = [total / total.norm() for total in sums]
    return [{i for i, label in enumerate(labels) if label == c} for c in range(k)]


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 12), rounds=st.sampled_from([0, 1, 10]))
def test_clusters_against_the_reference(seed: int, k: int, rounds: int) -> None:
    x = noise(4, 2, 5, 6, seed=seed)
    out, tokens = compress(x, k, rounds=rounds), x.flatten(0, 2)
    members = [set((out.assign == row).nonzero()[:, 0].tolist()) for row in range(k)]
    assert sorted(map(sorted, members)) == sorted(map(sorted, by_the_rule(tokens, k, rounds)))
    for row, group in enumerate(members):
        torch.testing.assert_close(out.features[row], tokens[sorted(group)].mean(0))
        assert int(out.index[row]) == sorted(group)[(len(group) - 1) // 2]


def test_lengths_of_tokens_matter_to_means_only() -> None:
    x = synthetic((6, 3, 4), "noise")
    out, scaled = compress(x, 9), compress(x * torch.linspace(0.1, 1, 72).view(6, 3, 4, 1), 9)
    assert torch.equal(out.assign, scaled.assign)
    torch.testing.assert_close(compress(x * 1e-30, 9).features * 1e30, out.features)
    assert not torch.equal(
        compress(x, 9, norm="raw").assign, compress(x * torch.rand(6, 3, 4, 1), 9, norm="raw").assign
    )


@pytest.mark.parametrize("seed", range(4))
def test_raw_vectors_are_clustered_as_by_exact_kmeans(seed: int) -> None:
    """Skipping centres that have not changed, and blocks of candidates, change no label."""
    for k in (2, 30, 150, 299):
        points = noise(300, 4, seed=seed)
        assert torch.equal(block_kmeans(points, k, 50), kmeans(points, k)[0])


def test_a_segment_gives_tokens_in_proportion_to_its_length() -> None:
    x = noise(10, 2, 3, 8)
    out = compress(x, 15, segment_frames=4)  # segments of 4, 3 and 3 frames
    segment = torch.arange(10) * 3 // 10
    assert torch.equal(segment[out.index // 6][out.assign], segment.repeat_interleave(6))
    assert torch.bincount(segment[out.index // 6]).tolist() == [6, 4, 5]
    assert len(compress(x[:3], 2, segment_frames=2)) == 2  # a segment of one frame gets nothing and joins the next one


def test_a_large_weight_of_time_gives_runs_of_frames() -> None:
    out = compress(noise(12, 1, 1, 8), 4, time_weight=100.0)
    assert bool((out.assign.diff() >= 0).all()) and compress(noise(12, 1, 1, 8), 4).assign.diff().min() < 0


def test_copies_beyond_the_distinct_tokens_become_tokens() -> None:
    x = noise(1, 2, 2, 8).expand(5, 2, 2, 8).clone()
    assert compress(x, 4).size.tolist() == [5, 5, 5, 5]
    out = compress(x, 7)
    assert out.size.sum() == 20 and sorted(out.size.tolist())[:3] == [1, 1, 1]
    for row, group in enumerate(out.assign.tolist()):
        torch.testing.assert_close(out.features[group], x.flatten(0, 2)[row])


def test_parameters_out_of_range_are_refused() -> None:
    for params in ({"norm": "cosine"}, {"segment_frames": 0}, {"time_weight": -1.0}, {"rounds": -1}):
        with pytest.raises(ConfigError, match="vq"):
            framefold.build("vq", **params)
