"""Golden files of DivPrune: the authors' released code, in its order of choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.divprune import divprune_order
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

MARGIN = 1e-6  # between the best two values of a choice; below, rounding decides


def check(data: Any) -> None:
    """Check every case; if tokens are equal, only how often the release chooses one again."""
    for name, params, arrays in golden_cases(data):
        with case(name):
            check_case(params, arrays)


def check_case(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    x, expected = torch.from_numpy(arrays["features"]), arrays["order"]
    order = divprune_order(x, round(params["ratio"] * len(x)))
    assert len(order) == len(expected)
    assert len(order) - len(order.unique()) == params["duplicates"]
    if params["duplicates"] or not params["margin_min"] >= MARGIN:
        return
    np.testing.assert_array_equal(order, expected)
    if len(order):
        exact = framefold.build("divprune", float(params["ratio"]))(
            VideoTokens.from_grid(x[:, None, None])
        ).tokens.index
        np.testing.assert_array_equal(exact, np.sort(expected))
