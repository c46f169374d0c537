"""Golden files of DART: pivots and kept tokens of a released copy of the method."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.dart import dart_pivots, dart_rows, dart_share
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    for name, params, arrays in golden_cases(data):
        with case(name):
            check_case(params, arrays)


def check_case(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """The order in which pivots take tokens is that of a Python set in the release, so it is part of the file."""
    start, length = params["image_start"], params["image_length"]
    image, text = params["pivot_image"], params["pivot_text"]
    hidden, keys = torch.from_numpy(arrays["hidden"])[0], torch.from_numpy(arrays["keys"])[0]
    ours = dart_pivots(keys, start, length, image, text)
    for pivots, expected in zip(ours, (arrays["pivot_image"], arrays["pivot_text"]), strict=True):
        np.testing.assert_array_equal(pivots.sort().values, np.sort(expected))
    each = dart_share(length, params["ratio"], image + text)
    rows = dart_rows(hidden, start, length, ours[0].tolist(), arrays["pivots_in_order"].tolist(), each)
    np.testing.assert_array_equal(rows, arrays["out"])
    assert len(rows) == params["count"]
