"""Golden files of LongVLM: metric, means and sizes after each step of merging."""

from __future__ import annotations

from typing import Any

import torch

from framefold.adapters.reference.longvlm import channel_group_means, merge_segments

ATOL = 1e-5


def check(data: Any) -> None:
    """Check all steps of a file, and the tokens of all segments in the order of time."""
    x = torch.from_numpy(data["X"])
    x = x.reshape(len(x) // int(data["frames_per_clip"]), -1, x.shape[-1])
    groups, merges = x.shape[-1] // data["metric_0"].shape[-1], data["r_list"].tolist()
    merged = x
    for i in range(len(merges)):
        _close(channel_group_means(merged, groups), data[f"metric_{i}"])
        merged, size, _ = merge_segments(x, merges[: i + 1], groups)
        _close(merged, data[f"x_after_{i}"])
        _close(size, data[f"size_after_{i}"])
    _close(merged.flatten(0, 1), data["Y"])


def _close(found: torch.Tensor, golden: Any) -> None:
    torch.testing.assert_close(found, torch.from_numpy(golden), rtol=0, atol=ATOL)
