"""Golden file of Tempo: tokens of each segment by the released code."""

from __future__ import annotations

from typing import Any

import numpy as np

from framefold.adapters.reference.tempo_ata import allocate_as_released
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    """Check the allocations, and that a segment keeps what it was allocated, up to all its tokens.

    Which segments of equal scores get what is left over is a tie.
    """
    for name, params, arrays in golden_cases(data):
        if "error" in params:  # the release fails, and there is nothing to compare
            continue
        with case(name):
            most = min(params.get("max_tokens") or params["tokens_per_segment"], params["tokens_per_segment"])
            ours = allocate_as_released(arrays["scores"].tolist(), params["max_budget"], params["min_tokens"], most)
            order, theirs = np.lexsort((ours, arrays["scores"])), np.lexsort((arrays["allocations"], arrays["scores"]))
            np.testing.assert_array_equal(np.array(ours)[order], arrays["allocations"][theirs])
            np.testing.assert_array_equal(arrays["kept"], arrays["allocations"].clip(max=params["tokens_per_segment"]))
