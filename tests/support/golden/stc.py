"""Golden files of STC: the pruner of the release, with and without newline tokens.

Files of STC-Cacher, which acts inside the vision encoder, have no check yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.stc import add_newlines, prune_chunks
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    """Check every case of the pruner; the chunks of a case belong to one video."""
    for name, params, arrays in golden_cases(data):
        if "hidden_in" in arrays:  # STC-Cacher
            continue
        with case(name):
            check_pruner(params, arrays)


def check_pruner(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    p = params["tokens_per_frame_in"]
    features = [torch.from_numpy(arrays[f"features_c{i}"]) for i in range(len(params["chunks"]))]
    chunks = [x.reshape(frames, p, -1) for x, frames in zip(features, params["chunks"], strict=True)]
    kept = prune_chunks(chunks, params["token_per_frame"], params["channel_keep"])
    for i, rows in enumerate(kept):
        if "grid_with_newline" in arrays:
            side = round(p**0.5)
            rows = add_newlines(rows, side, side)
        np.testing.assert_array_equal(rows, arrays[f"kept_c{i}"])
