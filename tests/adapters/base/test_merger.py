"""Merging groups, against loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.base.merger import merge, merge_at
from framefold.adapters.core.tokens import VideoTokens
from tests.adapters.ops.test_segments import random_groups
from tests.support.videos import noise

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@quick
@given(seed=st.integers(0, 200), k=st.integers(1, 12), drop=st.booleans())
def test_merge_against_loops(seed: int, k: int, drop: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    video = VideoTokens.from_grid(torch.randn(4, 2, 3, 5, generator=generator))
    groups = random_groups(24, k, seed, drop)
    out = merge(video, groups, k)
    for row in range(k):
        members = [i for i in range(24) if out.assign[i] == row]
        assert len({int(groups[i]) for i in members}) == 1  # one of the given groups, completely
        assert len(members) == int((groups == groups[members[0]]).sum()) == out.size[row]
        assert out.index[row] == members[(len(members) - 1) // 2]
        torch.testing.assert_close(out.features[row], video.features[members].mean(0))
    assert torch.equal(out.assign < 0, groups < 0) and bool((out.index[1:] > out.index[:-1]).all())


def test_merge_at_given_anchors_changes_only_the_given_groups() -> None:
    video = VideoTokens.from_grid(noise(1, 1, 6, 3))
    groups, anchors = torch.tensor([1, 0, -1, 2, 0, 1]), torch.tensor([4, 0, 3])
    values = noise(3, 3, seed=1)
    out = merge_at(video, anchors, groups, values)
    assert out.index.tolist() == [0, 3, 4] and out.assign.tolist() == [0, 2, -1, 1, 2, 0]
    assert out.size.tolist() == [2, 1, 2] and torch.equal(out.features, values[[1, 2, 0]])
    some = merge_at(video, anchors, groups, values[:1], torch.tensor([1]))
    assert torch.equal(some.features, torch.stack([values[0], video.features[3], video.features[4]]))
