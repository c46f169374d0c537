"""tempme: the rule against a slow reference, static videos, and events."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from tests.support.videos import noise, synthetic


def compress(x: torch.Tensor, budget: float | int) -> VideoTokens:
    return framefold.build("tempme", budget)(VideoTokens.from_grid(x)).tokens


def by_the_rule(x: torch.Tensor, k: int) -> set[tuple[int, ...]]:
    """The groups of the docstring of TempMe; a group of frames is a list of tokens, a token a list of its members."""
    frames, per_frame = x.shape[0], x.shape[1] * x.shape[2]
    n, rows = frames * per_frame, x.flatten(0, 2).double()

    def place(token: list[int]) -> int:
        return min(row % per_frame for row in token)

    def similarity(a: list[int], b: list[int]) -> float:
        return float(torch.cosine_similarity(rows[a].sum(0), rows[b].sum(0), dim=0))

    def reduced(tokens: list[list[int]], count: int) -> list[list[int]]:
        while len(tokens) > count:
            even, odd = tokens[0::2], tokens[1::2]
            pairs = [max((similarity(a, b), -j, i) for j, b in enumerate(odd)) for i, a in enumerate(even)]
            pairs.sort(key=lambda pair: (-pair[0], pair[2]))
            merged = pairs[: min(len(tokens) - count, len(tokens) // 2)]
            into = {2 * i: 1 - 2 * j for _, j, i in merged}
            new = {i: list(token) for i, token in enumerate(tokens) if i not in into}
            for source, target in into.items():
                new[target] += tokens[source]
            tokens = [new[i] for i in sorted(new)]
        return tokens

    groups = [[[frame * per_frame + place] for place in range(per_frame)] for frame in range(frames)]
    levels = max(1, (frames - 1).bit_length())
    for level in range(1, levels + 1):
        joined = [sum(groups[i : i + 2], []) for i in range(0, len(groups), 2)]
        joined = [sorted(tokens, key=place) for tokens in joined]
        target, ends, total = max(k, round(n * (k / n) ** (level / levels))), [0], sum(map(len, joined))
        for tokens in joined:
            ends.append(ends[-1] + len(tokens))
        counts = [max(1, b * target // total - a * target // total) for a, b in zip(ends, ends[1:], strict=False)]
        groups = [reduced(tokens, count) for tokens, count in zip(joined, counts, strict=True)]
    return {tuple(sorted(token)) for token in groups[0]}


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(frames=st.integers(1, 7), height=st.integers(1, 3), k=st.integers(1, 30), seed=st.integers(0, 999))
def test_groups_against_the_reference(frames: int, height: int, k: int, seed: int) -> None:
    x = noise(frames, height, 3, 6, seed=seed)
    out = compress(x, k)
    groups = {tuple((out.assign == row).nonzero()[:, 0].tolist()) for row in range(len(out))}
    assert groups == by_the_rule(x, min(k, frames * height * 3))


def test_a_static_video_gives_the_tokens_of_one_frame() -> None:
    for height, width in ((4, 4), (3, 5)):
        frame = noise(1, height, width, 8)
        out = compress(frame.expand(8, height, width, 8).clone(), height * width)
        assert torch.equal(out.assign.view(8, -1), out.assign[: height * width].expand(8, -1))
        assert set(out.size.tolist()) == {8}


def test_a_brief_event_stays_a_token_of_its_own() -> None:
    x = synthetic((16, 4, 4), "still")
    x[9, 2, 1] = 5 * noise(8, seed=7)
    out = compress(x, 0.1)
    row = int(out.assign[9 * 16 + 9])
    assert int(out.size[row]) == 1 and torch.equal(out.features[row], x[9, 2, 1])
