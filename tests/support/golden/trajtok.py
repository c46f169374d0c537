"""Golden files of TrajTok: trajectories of a chunk, memberships of tokens, soft means, and pooled tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference import trajtok
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    for _, params, arrays in golden_cases(data):
        golden = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        weights = {name.removeprefix("w."): value for name, value in golden.items() if name.startswith("w.")}
        segmenter = {name.removeprefix("segmenter."): value for name, value in weights.items()}
        found = trajtok.find_trajectories(golden["segment_features"], segmenter, params["depth"])
        _close(found.trajectories, golden["trajectories"])
        _close(found.logits, golden["logits"])
        assert torch.equal(found.label, golden["label"]) and torch.equal(found.blocked, golden["blocked"])
        x, grid = golden["visual_features"], (params["T"], params["R"], params["R"])
        _close(found.soft_means(x), golden["soft_means"])
        _close(trajtok.pool_trajectories(x, grid, found, weights, params["depth"], params["heads"]), golden["out"])


def _close(found: torch.Tensor, golden: torch.Tensor) -> None:
    torch.testing.assert_close(found, golden, rtol=0, atol=ATOL)
