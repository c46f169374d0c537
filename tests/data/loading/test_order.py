"""The order of an epoch: every unit once, equal steps for all ranks, the same for any number of ranks and workers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.data.loading.order import Layout, equal_part, group_by_tokens, rank_share
from framefold.errors import DataError

layouts = st.builds(
    Layout,
    units=st.integers(1, 60),
    per_batch=st.integers(1, 7),
    lanes=st.integers(1, 9),
    readers=st.integers(1, 5),
)


def batches(layout: Layout, number: int) -> list[list[int]]:
    """Units of each step of a lane, assembled from the batches of its readers."""
    lane = layout.lane(number)
    by_reader = []
    for reader in range(layout.readers):
        positions, sizes = layout.read_by(lane, reader)
        cuts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        by_reader.append([[p % layout.units for p in positions[a:b]] for a, b in zip(cuts, cuts[1:], strict=False)])
    return [by_reader[step % layout.readers][step // layout.readers] for step in range(layout.steps)]


@settings(max_examples=300, deadline=None)
@given(layouts)
def test_lanes_read_every_unit_once_in_equal_numbers_of_steps(layout):
    lanes = [batches(layout, number) for number in range(layout.lanes)]
    assert {len(lane) for lane in lanes} == {layout.steps}
    assert all(1 <= len(batch) <= layout.per_batch for lane in lanes for batch in lane)
    seen = [unit for lane in lanes for batch in lane for unit in batch]
    assert set(seen) == set(range(layout.units))
    if layout.per_batch > 1 and layout.units >= layout.lanes * layout.steps:
        assert len(seen) == layout.units
    assert len(seen) - layout.units <= max(layout.lanes - 1, layout.lanes * layout.steps - layout.units)


@settings(max_examples=200, deadline=None)
@given(layouts, st.integers(1, 12))
def test_any_number_of_ranks_reads_the_same_global_batches(layout, world):
    if layout.lanes % world and world % layout.lanes:
        with pytest.raises(DataError, match="divided evenly"):
            rank_share(layout.lanes, 0, world)
        return
    lanes = [batches(layout, number) for number in range(layout.lanes)]
    for step in range(layout.steps):
        by_lane = [lane[step] for lane in lanes]
        taken = []
        for rank in range(world):
            share = rank_share(layout.lanes, rank, world)
            parts = [by_lane[number][share.part(by_lane[number])] for number in share.lanes]
            assert all(parts)  # no rank is without a sample
            taken += sum(parts, [])
        global_batch = sum(by_lane, [])
        assert set(taken) == set(global_batch)
        if all(len(batch) * layout.lanes >= world for batch in by_lane):
            assert taken == global_batch


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(50, 200))
def test_groups_fill_a_token_budget_in_order(lengths, budget):
    counts = group_by_tokens(lengths, budget)
    assert sum(counts) == len(lengths)
    start = 0
    for number, count in enumerate(counts):
        group = lengths[start : start + count]
        assert count * max(group) <= budget
        following = lengths[start + count : start + count + 1]
        if following:  # one more would not have fitted
            assert (count + 1) * max(group + following) > budget, number
        start += count


def test_sample_over_the_budget_is_named():
    with pytest.raises(DataError, match="sample 1 of a.tar has 90 visual tokens, more than max_tokens = 64"):
        group_by_tokens([10, 90], 64, "a.tar")


def test_equal_parts_cover_everything():
    for total, parts in [(0, 1), (1, 3), (7, 3), (9, 3), (10, 4)]:
        cut = [equal_part(total, parts, part) for part in range(parts)]
        assert [i for first, count in cut for i in range(first, first + count)] == list(range(total)), (total, parts)
        assert max(count for _, count in cut) - min(count for _, count in cut) <= 1, (total, parts)


def test_sizes_must_be_positive():
    for wrong in [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)]:
        with pytest.raises(DataError, match="positive"):
            Layout(*wrong)
            pytest.fail(f"{wrong} is accepted")
