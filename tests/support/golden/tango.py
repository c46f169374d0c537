"""Golden files of Tango: rotated vectors, kept places and tokens of the release, values at wrong places included."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.tango import TangoSettings, tango_as_released
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    for name, params, arrays in golden_cases(data):
        with case(name):
            check_case(params, arrays)


def check_case(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Check rotation, count, places and tokens in order of place."""
    x, attention = torch.from_numpy(arrays["features"]).double(), torch.from_numpy(arrays["attention"]).clone()
    attention[:, params["sink"]] = 0
    names = ("tau", "segment_type", "base_time", "base_space", "context_ratio", "alpha", "neighbours", "beta")
    times = None if params["times"] is None else tuple(params["times"])
    settings = TangoSettings(**{n: params[n] for n in names}, sections=tuple(params["sections"]), times=times)
    out = tango_as_released(x, attention, (params["H"], params["W"]), params["retain_ratio"], settings)
    np.testing.assert_allclose(out.roped, arrays["roped"], rtol=0, atol=ATOL)
    order = torch.sort(out.groups.anchors).indices
    assert len(order) == params["count"]
    if not params["stable_under_official_noise"]:
        return
    np.testing.assert_array_equal(out.groups.anchors[order], arrays["index"])
    np.testing.assert_allclose(out.groups.features(x.flatten(0, 1))[order], arrays["tokens"], rtol=0, atol=ATOL)
