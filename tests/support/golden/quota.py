"""Golden files of QuoTA: frame budgets and the five resizers of the released code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.quota import RESIZERS, frame_tokens, limit_weights
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    """Check weights, counts, shapes and features; frames without tokens are dropped."""
    for name, params, arrays in golden_cases(data):
        if "error" in params:  # the release fails, and there is nothing to compare
            continue
        with case(name):
            weights = params.get("w", params.get("weights"))
            budget = params["total"] * params.get("per", params.get("max_token"))
            features = torch.from_numpy(arrays["features"])
            side = math.isqrt(features.shape[1])
            counts = frame_tokens(weights, budget, params["version"], side * side)
            if "scaled_weights" in arrays:
                np.testing.assert_allclose(
                    limit_weights(weights, side * side / budget), arrays["scaled_weights"], atol=1e-12
                )
            resize = RESIZERS[params["version"]]
            frames = zip(features.unflatten(1, (side, side)), counts, strict=True)
            out = [resize(frame, tokens) for frame, tokens in frames if tokens > 0]
            if "counts" in arrays:
                np.testing.assert_array_equal(counts, arrays["counts"])
            if "shapes" in arrays:  # without the width; (tokens, 0) for frames that are no grid any more
                shapes = [[side for side in shape if side] for shape in arrays["shapes"].tolist()]
                assert [list(frame.shape[:-1]) for frame in out] == shapes
            else:
                assert [list(frame.shape) for frame in out] == params["shapes"]
            found = torch.cat([frame.reshape(-1, features.shape[-1]) for frame in out])
            np.testing.assert_allclose(found, arrays["out"], atol=ATOL)
