"""medoids: against k-medoids as the release writes it, copies, segments, means and official."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors import medoids as module
from framefold.adapters.compressors.medoids import Medoids, k_medoids
from framefold.adapters.ops.max_min import PointSet
from framefold.adapters.reference.centerclip import kmedoids
from framefold.errors import ConfigError, InputError
from tests.support.videos import kept_rows, noise, synthetic


@pytest.mark.parametrize("stored", [True, False])
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 999), data=st.data())
def test_clusters_of_a_segment_against_the_release(stored: bool, n: int, seed: int, data: st.DataObject) -> None:
    points, count, rounds = (
        noise(n, 6, seed=seed),
        data.draw(st.integers(1, n)),
        data.draw(st.sampled_from([0, 1, 100])),
    )
    before = module.LARGEST_TABLE, module.BLOCK
    module.LARGEST_TABLE, module.BLOCK = (4096, 256) if stored else (0, 5)
    try:
        first = int(points.norm(dim=-1).argmax())
        ours, assign = k_medoids(PointSet.prepare(points, "euclid"), count, first, rounds)
    finally:
        module.LARGEST_TABLE, module.BLOCK = before
    expected_assign, expected = kmedoids(points[None], count, iter_limit=rounds)
    assert ours.tolist() == expected[0].tolist() and assign.tolist() == expected_assign[0].tolist()


def test_a_copy_is_a_medoid_only_if_nothing_else_is_left() -> None:
    points = noise(5, 8).repeat(3, 1)
    for count in (3, 5, 9):
        kept, assign = k_medoids(PointSet.prepare(points, "euclid"), count, 2, 100)
        assert len(kept) == count and set(range(5)) >= set(kept[:5].tolist())
        assert kept[5:].tolist() == list(range(5, count)) and assign[kept].tolist() == list(range(count))
        if count <= 5:
            assert assign[:5].tolist() == assign[5:10].tolist() == assign[10:].tolist()


def test_the_number_of_copies_is_their_weight() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [9.0], [9.0], [9.0], [9.0], [9.0]])
    assert k_medoids(PointSet.prepare(points, "euclid"), 1, 3, 100)[0].tolist() == [3]
    assert k_medoids(PointSet.prepare(points[:4], "euclid"), 1, 3, 100)[0].tolist() == [1]


def test_segments_follow_from_the_budget_or_from_their_length() -> None:
    video = VideoTokens.from_grid(synthetic((10, 2, 3)))
    for k, segments in ((5, 1), (12, 2), (29, 4), (30, 5), (60, 5)):
        counts, sizes = Medoids().parts(video, k)
        assert len(counts) == segments and sum(counts) == k and sum(sizes) == 60
    assert Medoids(segment_frames=4).parts(video, 9) == ([3, 3, 3], [24, 18, 18])
    assert len(Medoids(segment_frames=2).parts(video, 3)[0]) == 3


def test_a_segment_does_not_depend_on_the_others_and_a_full_one_keeps_everything() -> None:
    x = synthetic((8, 2, 3), "noise")
    whole = kept_rows("medoids", x, 16, segment_frames=4)
    assert whole == [
        *kept_rows("medoids", x[:4], 8, segment_frames=4),
        *(24 + r for r in kept_rows("medoids", x[4:], 8, segment_frames=4)),
    ]
    assert kept_rows("medoids", x, 48) == list(range(48))


def test_reordering_the_places_of_a_segment_reorders_the_result() -> None:
    x = synthetic((2, 3, 4), "noise", 5)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = x.reshape(24, -1)[order].reshape(x.shape)
    assert sorted(order[kept_rows("medoids", shuffled, 3)].tolist()) == kept_rows("medoids", x, 3)


def test_merge_gives_the_means_of_the_clusters_at_the_medoids() -> None:
    x = synthetic((6, 2, 3), "noise")
    video = VideoTokens.from_grid(x)
    kept, merged = (framefold.build("medoids", 9, merge=merge)(video).tokens for merge in (False, True))
    assert torch.equal(kept.index, merged.index) and int(merged.size.sum()) == 36 and bool((kept.size == 1).all())
    for row in range(9):
        expected = video.features[merged.assign == row].mean(0)
        torch.testing.assert_close(merged.features[row], expected, atol=1e-5, rtol=1e-5)


def test_unit_vectors_ignore_lengths() -> None:
    x = synthetic((4, 2, 3), "noise")
    scale = 2.0 ** torch.randint(-9, 9, (4, 2, 3, 1), generator=torch.Generator().manual_seed(0))
    assert kept_rows("medoids", x * scale, 7, norm="unit") == kept_rows("medoids", x, 7, norm="unit")
    assert kept_rows("medoids", x * scale, 7) != kept_rows("medoids", x, 7)


def test_official_keeps_as_many_tokens_of_every_segment() -> None:
    x = synthetic((6, 2, 3), "noise")
    kept = kept_rows("medoids", x, 14, variant="official")
    expected = [kmedoids(part.reshape(1, 12, -1), 4)[1][0] + 12 * i for i, part in enumerate(x.split(2))]
    assert kept == torch.cat(expected).tolist()
    assert len(kept_rows("medoids", x, 14, variant="official", segment_frames=6)) == 14
    with pytest.raises(InputError, match="multiple of 4"):
        kept_rows("medoids", x, 14, variant="official", segment_frames=4)
    copies = framefold.build("medoids", 14, variant="official", merge=True)(VideoTokens.from_grid(x[:1].expand_as(x)))
    assert len(copies.tokens) == 12


def test_parameters_out_of_range_raise() -> None:
    for params in ({"segment_tokens": 0}, {"segment_frames": 0}, {"rounds": -1}):
        with pytest.raises(ConfigError, match="out of range"):
            framefold.build("medoids", 0.1, **params)
