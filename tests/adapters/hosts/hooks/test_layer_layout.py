"""Columns that are left from some layer on, and masks of decode steps, as tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefold.adapters.hosts.hooks.layer_cache import CachedColumns, CachedLayers, step_arguments
from framefold.adapters.hosts.hooks.layer_layout import Deepstack, first_layout, next_layout, switch_layout

rows = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(gone_in=rows, left=st.booleans())
def test_two_switches_equal_one_gather(gone_in: list[list[int]], left: bool) -> None:
    """Each number is the layout in which the column is dropped; 0 is padding, 3 stays."""
    steps = torch.tensor([sorted(row, key=lambda step: step > 0) if left else row for row in gone_in])
    steps[:, -1] = 3
    mask = steps > 0 if left else torch.ones_like(steps, dtype=torch.bool)
    hidden = torch.arange(steps.numel(), dtype=torch.float32).view(*steps.shape, 1) + 1
    start = first_layout(mask, [], [])
    one = next_layout(steps != 1, mask, "left" if left else "right", [], [])
    two = next_layout((steps != 1) & (steps != 2), mask, "left" if left else "right", [], [])
    found = switch_layout(switch_layout(hidden, start, one), one, two)
    assert torch.equal(found[two.mask], two.gather(hidden)[two.mask])
    for row in range(len(steps)):
        real = mask[row] & (steps[row] != 1) & (steps[row] != 2)
        assert found[row, two.mask[row], 0].tolist() == hidden[row, real, 0].tolist()
        columns = two.where[row, real]
        assert two.gather(hidden)[row, columns, 0].tolist() == hidden[row, real, 0].tolist()


def test_a_switch_to_the_same_layout_does_nothing() -> None:
    layout, hidden = first_layout(torch.ones(2, 3, dtype=torch.bool), [], []), torch.randn(2, 3, 4)
    assert layout.trivial and switch_layout(hidden, layout, layout) is hidden and layout.gather(hidden) is hidden


def test_values_are_gathered_once_from_the_same_source() -> None:
    layout, calls = first_layout(torch.ones(1, 2, dtype=torch.bool), [], []), []
    source, other = torch.zeros(1), torch.zeros(1)
    for given_source in (source, source, other, other, source):
        layout.cached("name", given_source, lambda: calls.append(1))
    assert len(calls) == 3


def test_deepstack_features_follow_the_columns_that_are_left() -> None:
    visual = torch.tensor([[False, True, True, False], [True, True, False, False]])
    keep = torch.tensor([[True, False, True, True], [True, True, True, True]])
    layout = next_layout(keep, torch.ones_like(keep), "left", [], [])
    features = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    stack = Deepstack({1: features}, visual)
    out = stack.add(1, torch.zeros(2, 4, 1), layout)
    assert out[..., 0].tolist() == [[0, 0, 2, 0], [3, 4, 0, 0]]
    assert stack.add(0, features, layout) is features


def step(columns: CachedColumns, mask: Any, new: int, total: int, layer: int = 1, flat: bool = False) -> Any:
    cache = SimpleNamespace(framefold_layers=CachedLayers(4, {1: columns}), get_seq_length=lambda _=0: total)
    hidden = torch.zeros(1 if columns.padding is None else len(columns.padding), new, 2)
    out = step_arguments(cache, layer, hidden, {"attention_mask": mask}, flat)
    return None if out is None else out["attention_mask"]


def test_a_step_without_any_mask_needs_none() -> None:
    assert step(CachedColumns(2, None), None, 1, 6) is None
    assert step(CachedColumns(2, None), torch.ones(1, 6), 1, 6, layer=0) is None  # it has all columns


def test_the_prompt_is_replaced_in_masks_of_every_kind() -> None:
    padding = torch.tensor([[True, False]])
    flat = step(CachedColumns(2, padding), torch.tensor([[0, 0, 1, 1, 1, 1]]), 1, 6)
    assert flat.tolist() == [[0, 1, 1, 1]]
    later = torch.tensor([[[[True, False], [True, True]]]])
    host = torch.cat([torch.zeros(1, 1, 2, 4, dtype=torch.bool), later], -1)
    assert step(CachedColumns(2, padding), host, 2, 6)[0, 0].tolist() == [
        [False, True, True, False],
        [False, True, True, True],
    ]
    low = torch.finfo(torch.float32).min
    added = torch.zeros(1, 1, 2, 6).masked_fill(~host, low)
    expected = torch.tensor([[low, 0, 0, low], [low, 0, 0, 0]])
    assert torch.equal(step(CachedColumns(2, padding), added, 2, 6)[0, 0], expected)
    assert torch.equal(step(CachedColumns(2, None), added, 2, 6)[0, 0][:, :2], torch.zeros(2, 2))


def test_padding_inside_gets_a_mask_where_the_host_needs_none() -> None:
    columns = CachedColumns(2, torch.tensor([[True, False], [False, False]]))
    mask = step(columns, None, 1, 6)  # four columns of the prompt, one since, and a new one
    assert mask.shape == (2, 1, 1, 4) and mask[:, 0, 0].tolist() == [[False, True, True, True], [True] * 4]
    assert step(columns, None, 1, 6, flat=True).shape == (2, 4)
