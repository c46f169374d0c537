"""Golden files of TempMe: single steps of merging, and sequences of whole blocks."""

from __future__ import annotations

from typing import Any

import torch

from framefold.adapters.reference.tempme import JoinedFrames, tempme_block
from framefold.adapters.reference.tome import tome_step
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    """Check a file of steps, whose keys are ``<case>_<array>``, or of blocks."""
    steps = [name.removesuffix("_size_out") for name in data if name.endswith("_size_out")]
    for case in steps:
        x, size, y, sizes = (torch.from_numpy(data[f"{case}_{name}"]) for name in ("x", "size", "y", "size_out"))
        merged = tome_step(x, size, x, int(data[f"{case}_r"]), int(data[f"{case}_cls"]), by_index=True)
        _close(merged[0], y)
        _close(merged[1], sizes)
    if not steps:
        for _, params, arrays in golden_cases(data):
            check_blocks(params, {name: torch.from_numpy(array) for name, array in arrays.items()})


def check_blocks(params: dict[str, Any], golden: dict[str, torch.Tensor]) -> None:
    """Check tokens, sizes and counts after each block."""
    x = golden["tokens"]
    tokens = JoinedFrames(x, torch.ones(*x.shape[:2], 1))
    for i, plan in enumerate(params["plan"]):
        start = f"w.block{i}."
        weights = {name.removeprefix(start): value for name, value in golden.items() if name.startswith(start)}
        tokens = tempme_block(tokens, weights, params["heads"], *plan, positions=params.get("pos", True))
        _close(tokens.x, golden[f"block{i}_out"])
        _close(tokens.size, golden[f"block{i}_size"].expand_as(tokens.size))
        frames, count = tokens.x.shape[:2]
        assert [frames, tokens.class_tokens, count] == golden[f"block{i}_counts"].tolist()


def _close(found: torch.Tensor, golden: torch.Tensor) -> None:
    torch.testing.assert_close(found, golden, rtol=0, atol=ATOL)
