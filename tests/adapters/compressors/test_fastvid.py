"""fastvid: the exact rule against a slow reference, and the rounding of the releases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.ops.allocation import even_counts, share
from framefold.adapters.reference.fastvid import FastVIDSettings, released_counts
from framefold.errors import ConfigError, InputError
from tests.support.videos import noise, synthetic


def attended(x: torch.Tensor, seed: int = 5) -> VideoTokens:
    return VideoTokens.from_grid(x, attention=noise(*x.shape[:3], seed=seed).exp())


def peaks(x: torch.Tensor, rows: list[int], count: int) -> list[int]:
    """The rows of highest density times distance to a denser one, written out."""
    d = [[float((x[i] - x[j]).norm()) / x.shape[1] ** 0.5 for j in rows] for i in rows]
    density = [-sum(v * v for v in sorted(row)[:4]) / min(4, len(rows)) for row in d]
    far = max(max(row) for row in d)
    away = [min([d[i][j] for j in range(len(rows)) if density[j] > density[i]], default=far) for i in range(len(rows))]
    score = [rho + (math.log(delta) if delta else -math.inf) for rho, delta in zip(density, away, strict=True)]
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: -score[i])[:count]]


def segments_of(x: torch.Tensor) -> list[list[int]]:
    means = torch.nn.functional.normalize(x.mean(1), dim=-1)
    similarity = (means[1:] * means[:-1]).sum(-1).tolist()
    ends = set(sorted(range(len(similarity)), key=lambda t: similarity[t])[: min(8, len(x)) - 1])
    ends |= {t for t, value in enumerate(similarity) if value < 0.9}
    out: list[list[int]] = [[]]
    for t in range(len(x)):
        out[-1].append(t)
        if t in ends:
            out.append([])
    return out


def by_the_rule(video: VideoTokens, k: int) -> dict[int, torch.Tensor]:
    """Anchors and values by the docstring of FastVID, one token at a time."""
    t, p = video.grid[0], video.per_frame
    x, attention = video.features.double(), video.attention.reshape(t, p).tolist()
    context = round(0.4 * k)
    salient: set[int] = set()
    for frame, count in enumerate(even_counts(k - context, t).tolist()):
        salient |= {frame * p + place for place in sorted(range(p), key=lambda i: -attention[frame][i])[:count]}
    free = [[frame * p + place for place in range(p) if frame * p + place not in salient] for frame in range(t)]
    segments, stride = segments_of(x.view(t, p, -1)), 4
    while sum(len(free[f]) for frames in segments for f in frames[::-1][::stride]) < context:
        stride -= 1
    anchors = [frames[::-1][::stride][::-1] for frames in segments]
    weight = torch.tensor([sum(len(free[f]) for f in frames) for frames in segments])
    caps = torch.tensor([sum(len(free[f]) for f in frames) for frames in anchors])
    out = {row: x[row] for row in salient}
    for frames, own, count in zip(segments, anchors, share(context, weight, caps).tolist(), strict=True):
        counts = share(count, torch.ones(len(own)), torch.tensor([len(free[f]) for f in own])).tolist()
        targets = [row for f, n in zip(own, counts, strict=True) if n for row in peaks(x, free[f], n)]
        joined: dict[int, list[int]] = {row: [] for row in targets}
        for row in [row for f in frames for row in free[f] if row not in joined] if targets else []:
            joined[max(targets, key=lambda other: float(torch.cosine_similarity(x[row], x[other], dim=0)))].append(row)
        for row, members in joined.items():
            w = max(1 / (len(members) + 1), 0.6)
            out[row] = w * x[row] + (1 - w) * x[members].mean(0) if members else x[row]
    return out


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 14), st.integers(1, 3), st.integers(2, 3)),
    kind=st.sampled_from(["noise", "drift"]),
    seed=st.integers(0, 999),
    k=st.integers(1, 126),
)
def test_exact_against_the_reference(grid, kind, seed, k) -> None:
    video = attended(synthetic(grid, kind, seed) + 0.01 * noise(*grid, 8, seed=seed + 1))
    k = min(k, math.prod(grid) - 1)
    expected = by_the_rule(video, k)
    out = framefold.build("fastvid", k)(video).tokens
    assert out.index.tolist() == sorted(expected)
    values = torch.stack([expected[i] for i in sorted(expected)])
    torch.testing.assert_close(out.features.double(), values, atol=1e-5, rtol=1e-5)


def test_a_video_of_identical_frames_keeps_norms() -> None:
    x = synthetic((1, 4, 4)).expand(12, 4, 4, 8)
    for params in ({}, {"variant": "official"}, {"variant": "official", "form": "video"}):
        out = framefold.build("fastvid", 0.3, **params)(attended(x)).tokens
        assert bool((out.features.norm(dim=-1) <= x.norm(dim=-1).max() * 1.0001).all())


def test_equal_attention_prefers_lower_indices() -> None:
    x = synthetic((4, 3, 3))
    video = VideoTokens.from_grid(x, attention=torch.zeros(4, 3, 3))
    out = framefold.build("fastvid", 8, context_ratio=0.0)(video).tokens
    assert out.index.tolist() == [0, 1, 9, 10, 18, 19, 27, 28]


def test_every_token_of_a_segment_with_targets_is_represented() -> None:
    video = attended(synthetic((12, 3, 4)))
    out = framefold.build("fastvid", 0.5)(video).tokens
    assert bool((out.assign >= 0).all()) and int(out.size.sum()) == 144
    assert bool((framefold.build("fastvid", 0.5, context_ratio=0.0)(video).tokens.size == 1).all())


def test_the_forms_of_the_release_round_differently() -> None:
    frames, still = list(range(10)), [0.99] * 10
    setting = FastVIDSettings(ratio=0.3, still=0.95)
    salient, targets = released_counts(frames, still, 10, "onevision", setting)
    assert salient == dict.fromkeys(frames, 2) and targets == {9: 3, 5: 3, 1: 3}  # 29 of 30: a remainder is lost
    salient, targets = released_counts(frames, still, 10, "video", setting)
    assert sum(salient.values()) == 18 and targets == {9: 4, 5: 4, 1: 4}
    salient, targets = released_counts(frames, still, 10, "qwen", setting)
    assert salient == {9: 5} and targets == {9: 5}  # only the last frame, at most half of it merged


def test_official_fails_where_the_release_fails() -> None:
    build = framefold.build
    with pytest.raises(InputError, match="at least 8 frames"):
        build("fastvid", 0.5, variant="official")(attended(synthetic((5, 3, 4))))
    with pytest.raises(InputError, match="no token"):
        build("fastvid", 0.05, variant="official")(attended(synthetic((9, 3, 4))))
    with pytest.raises(InputError, match="beside the salient"):
        build("fastvid", 0.9, variant="official", context_ratio=0.1)(attended(synthetic((9, 3, 4))))
    with pytest.raises(InputError, match="target in every"):
        build("fastvid", 0.2, variant="official", context_ratio=0.1)(attended(synthetic((9, 3, 4))))
    for form in ("video", "qwen"):
        with pytest.raises(InputError, match="two segments"):
            build("fastvid", 0.5, variant="official", form=form, min_segments=1, cut=-1.0)(
                attended(synthetic((9, 3, 4)))
            )
        with pytest.raises(InputError, match="salient token and a target"):
            build("fastvid", 0.5, variant="official", form=form, context_ratio=1.0)(attended(synthetic((9, 3, 4))))
    with pytest.raises(ConfigError, match="form"):
        build("fastvid", form="other")
    out = build("fastvid", 0.5, variant="official", min_segments=2)(attended(synthetic((9, 3, 4)))).tokens
    assert int(out.size.sum()) == int((out.assign >= 0).sum()) and torch.equal(
        out.assign[out.index], torch.arange(len(out))
    )


def test_onevision_merges_frames_alone_if_anchors_have_the_targets_of_one_frame() -> None:
    x = noise(6, 3, 4, 8)
    params = {"variant": "official", "form": "onevision", "min_segments": 1, "cut": -1.0}
    out = framefold.build("fastvid", 0.5, stride=1, **params)(attended(x)).tokens
    for t in range(6):
        other = x.clone()
        other[torch.arange(6) != t] *= -1
        again = framefold.build("fastvid", 0.5, stride=1, **params)(attended(other)).tokens
        own = out.index // 12 == t
        torch.testing.assert_close(out.features[own], again.features[own])
    assert torch.equal(out.index[out.assign] // 12, torch.arange(72) // 12)


def test_official_works_at_any_scale() -> None:
    x = noise(6, 3, 4, 8).double()
    compressor = framefold.build("fastvid", 0.5, variant="official", min_segments=2)
    small = compressor(attended(x * 2.0**-200)).tokens
    large = compressor(attended(x * 2.0**200)).tokens
    assert torch.equal(small.index, large.index)
    torch.testing.assert_close(small.features * 2.0**200, large.features * 2.0**-200)
