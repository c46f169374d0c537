"""visionzip: the exact rule against a slow reference, and values that do not grow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.errors import ConfigError
from tests.support.videos import noise, synthetic


def attended(x: torch.Tensor, seed: int = 5) -> VideoTokens:
    return VideoTokens.from_grid(x, attention=noise(*x.shape[:3], seed=seed).exp())


def spread(rows: list[int], count: int) -> list[int]:
    return [rows[(2 * i + 1) * len(rows) // (2 * count)] for i in range(count)]


def by_the_rule(video: VideoTokens, k: int, scope: str) -> dict[int, torch.Tensor]:
    """Anchors and values by the docstring of VisionZip, one part of the video at a time."""
    x, attention, per_frame = video.features.double(), video.attention.tolist(), video.per_frame
    parts = [list(range(len(video)))] if scope == "video" else []
    if not parts:
        parts = [list(range(t * per_frame, (t + 1) * per_frame)) for t in range(video.grid[0])]
    out: dict[int, torch.Tensor] = {}
    tokens = [k // len(parts)] * len(parts)
    for i in spread(list(range(len(parts))), k % len(parts)):
        tokens[i] += 1
    for part, count in zip(parts, tokens, strict=True):
        dominant = count * 27 // 32
        first = sorted(part, key=lambda row: -attention[row])[:dominant]
        rest = [row for row in part if row not in first]
        targets = spread(rest, count - dominant) if count > dominant else []
        groups = {row: [row] for row in [*first, *targets]}
        for row in set(rest) - set(targets) if targets else ():
            groups[max(targets, key=lambda other: float(torch.cosine_similarity(x[row], x[other], dim=0)))].append(row)
        out |= {row: x[members].mean(0) for row, members in groups.items()}
    return out


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    grid=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 999),
    k=st.integers(1, 96),
    scope=st.sampled_from(["frame", "video"]),
)
def test_exact_against_the_reference(grid, seed, k, scope) -> None:
    video = attended(synthetic(grid, "noise", seed))
    k = min(k, math.prod(grid))
    expected = by_the_rule(video, k, scope)
    out = framefold.build("visionzip", k, scope=scope)(video).tokens
    assert out.index.tolist() == sorted(expected)
    torch.testing.assert_close(out.features.double(), torch.stack([expected[i] for i in sorted(expected)]))


def test_means_do_not_grow_and_sums_do() -> None:
    video = attended(1 + 0.1 * noise(6, 4, 4, 8))
    norm = video.features.norm(dim=-1).max() * 1.0001
    assert bool((framefold.build("visionzip", 0.2)(video).tokens.features.norm(dim=-1) <= norm).all())
    for params in ({"reduction": "sum"}, {"variant": "official"}):
        assert bool((framefold.build("visionzip", 0.2, **params)(video).tokens.features.norm(dim=-1) > norm).any())


def test_without_contextual_tokens_others_are_dropped() -> None:
    video = attended(synthetic((3, 3, 4)))
    out = framefold.build("visionzip", 9, attention_share=1.0, scope="video")(video).tokens
    top = torch.sort(video.attention, descending=True).indices[:9].sort().values
    assert torch.equal(out.index, top) and bool((out.size == 1).all())
    assert torch.equal(out.features, video.features[top])


def test_a_frame_with_one_token_keeps_the_mean_of_all() -> None:
    """As in the release, where int(54 / 64) is 0: a frame is never left to its most attended token."""
    video = attended(synthetic((4, 3, 4)))
    out = framefold.build("visionzip", 4)(video).tokens
    assert out.size.tolist() == [12] * 4
    torch.testing.assert_close(out.features, video.as_grid().flatten(1, 2).mean(1))


def test_official_gives_each_frame_the_same_number() -> None:
    video = attended(synthetic((5, 3, 4)))
    out = framefold.build("visionzip", 0.3, variant="official")(video).tokens
    assert torch.bincount(out.index // 12).tolist() == [4] * 5
    with pytest.raises(ConfigError, match="attention_share"):
        framefold.build("visionzip", variant="official", attention_share=1.0)
