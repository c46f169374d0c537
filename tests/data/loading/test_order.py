"""The order of an epoch: every unit once, equal steps for all, the same batches on any number of ranks and workers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.data.loading.order import Layout, equal_part, runs, seat
from framefold.errors import DataError

layouts = st.builds(
    Layout,
    units=st.integers(1, 60),
    per_batch=st.integers(1, 7),
    lanes=st.integers(1, 9),
    readers=st.integers(1, 5),
)


def batches(layout: Layout, number: int) -> list[list[int]]:
    """Places of each step of a lane, put together from its readers' batches."""
    lane = layout.lane(number)
    by_reader = []
    for reader in range(layout.readers):
        places, sizes = layout.read_by(lane, reader)
        cuts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        by_reader.append([[p % layout.units for p in places[a:b]] for a, b in zip(cuts, cuts[1:], strict=False)])
    return [by_reader[step % layout.readers][step // layout.readers] for step in range(layout.steps)]


@settings(max_examples=300, deadline=None)
@given(layouts)
def test_lanes_take_every_unit_once_in_equally_many_steps(layout):
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
def test_any_number_of_ranks_takes_the_same_global_batches(layout, world):
    if layout.lanes % world and world % layout.lanes:
        with pytest.raises(DataError, match="dealt evenly"):
            seat(layout.lanes, 0, world)
        return
    for step in range(layout.steps):
        whole = [batches(layout, number)[step] for number in range(layout.lanes)]
        taken = []
        for rank in range(world):
            place = seat(layout.lanes, rank, world)
            parts = [whole[number][place.part(whole[number])] for number in place.lanes]
            assert all(parts)  # nobody is without a sample
            taken += sum(parts, [])
        together = sum(whole, [])
        assert set(taken) == set(together)
        if all(len(batch) * layout.lanes >= world for batch in whole):
            assert taken == together


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(50, 200))
def test_runs_fill_a_token_budget_and_are_in_order(lengths, budget):
    counts = runs(lengths, budget)
    assert sum(counts) == len(lengths)
    start = 0
    for place, count in enumerate(counts):
        part = lengths[start : start + count]
        assert count * max(part) <= budget
        following = lengths[start + count : start + count + 1]
        if following:  # one more would not have fitted
            assert (count + 1) * max(part + following) > budget, place
        start += count


def test_a_sample_that_no_budget_holds_is_named():
    with pytest.raises(DataError, match="sample 1 of a.tar has 90 visual tokens, more than max_tokens = 64"):
        runs([10, 90], 64, "a.tar")


@pytest.mark.parametrize(("total", "parts"), [(0, 1), (1, 3), (7, 3), (9, 3), (10, 4)])
def test_shares_cover_everything(total, parts):
    shares = [equal_part(total, parts, part) for part in range(parts)]
    assert [i for first, count in shares for i in range(first, first + count)] == list(range(total))
    assert max(count for _, count in shares) - min(count for _, count in shares) <= 1


@pytest.mark.parametrize("wrong", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_sizes_must_be_positive(wrong):
    with pytest.raises(DataError, match="positive"):
        Layout(*wrong)
