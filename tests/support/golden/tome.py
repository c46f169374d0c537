"""Golden files of ToMe's merging: means, sizes and sources after each round."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.tome import tome_step
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    """Check each round of every case, and, after a single round, the means copied to the places of their members."""
    for _, params, arrays in golden_cases(data):
        golden = {name: torch.from_numpy(array) for name, array in arrays.items()}
        x, protected = golden["x"], int(params["class_token"])
        size, row = torch.ones(*x.shape[:2], 1), torch.arange(x.shape[1]).expand(len(x), -1)
        for i in range(params["rounds"]):
            x, size, new = tome_step(x, size, golden[f"metric_{i}"], params["r"], protected, by_index=bool(protected))
            row = new.gather(1, row)
            torch.testing.assert_close(x, golden[f"out_{i}"], rtol=0, atol=ATOL)
            torch.testing.assert_close(size, golden[f"size_{i}"], rtol=0, atol=ATOL)
            members = row[:, None] == torch.arange(x.shape[1])[:, None]
            np.testing.assert_array_equal(members, golden[f"source_{i}"].bool())
        if "unmerged" in golden:
            copies = x.gather(1, row[..., None].expand(-1, -1, x.shape[2]))
            torch.testing.assert_close(copies, golden["unmerged"], rtol=0, atol=ATOL)
