"""Golden files of STC: the pruner of the release, with and without newline tokens.

The files of STC-Cacher, which acts inside the vision encoder, have no check yet.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.stc import add_newlines, prune_chunks


def check(data: Any) -> None:
    """Check every case of a file of the pruner; chunks of a case belong to one video."""
    cases = [key.removesuffix("__params") for key in data if key.endswith("__params")]
    for case in cases:
        if f"{case}__hidden_in" in data:
            continue
        params = json.loads(str(data[f"{case}__params"]))
        p = params["tokens_per_frame_in"]
        features = [torch.from_numpy(data[f"{case}__features_c{i}"]) for i in range(len(params["chunks"]))]
        chunks = [x.reshape(frames, p, -1) for x, frames in zip(features, params["chunks"], strict=True)]
        kept = prune_chunks(chunks, params["token_per_frame"], params["channel_keep"])
        for i, rows in enumerate(kept):
            if f"{case}__grid_with_newline" in data:
                side = round(p**0.5)
                rows = add_newlines(rows, side, side)
            np.testing.assert_array_equal(rows, data[f"{case}__kept_c{i}"], err_msg=case)
