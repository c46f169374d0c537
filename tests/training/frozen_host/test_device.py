"""Inputs on the device and in the dtype of a host."""

from __future__ import annotations

from typing import Any

import torch

from framefold.training.frozen_host.device import move_inputs


def test_pixels_get_the_dtype_of_the_host_and_other_numbers_keep_theirs() -> None:
    host: Any = type("Host", (), {"device": torch.device("cpu"), "dtype": torch.bfloat16})
    inputs = {"pixel_values_videos": torch.ones(2), "second_per_grid_ts": torch.tensor([0.1]), "other": [1]}
    moved = move_inputs({**inputs, "input_ids": torch.tensor([1])}, host)
    dtypes = {name: getattr(value, "dtype", None) for name, value in moved.items()}
    assert list(dtypes.values()) == [torch.bfloat16, torch.float32, None, torch.int64]
