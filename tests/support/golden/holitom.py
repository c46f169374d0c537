"""Golden files of HoliTom: windows, kept places and tokens of the release."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from framefold.adapters.reference.holitom import ReleasedHoliTom, holitom_as_released
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4
TIE = 1e-6  # a smaller distance of a similarity to tau is within the rounding error


def check(data: Any) -> None:
    for name, params, arrays in golden_cases(data, failing=True):
        with case(name):
            check_case(params, arrays)


def check_case(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Check windows, ratio, counts, places and tokens; in some cases the release raises."""
    x, attention = torch.from_numpy(arrays["features"]).double(), torch.from_numpy(arrays["attention"])
    settings = dict(
        context_share=params["D"], beta=None if params["no_beta"] else params["Beta"], neighbours=params["K"],
        longest=params["max_window"],
    )  # fmt: skip
    if "error" in params:
        with pytest.raises(InputError, match="holitom"):
            holitom_as_released(x, attention, params["retain_ratio"], params["tau"], **settings)
        return
    out = holitom_as_released(x, attention, params["retain_ratio"], params["tau"], **settings)
    if not params.get("tau_margin", 1.0) >= TIE:
        return
    np.testing.assert_array_equal(out.windows, arrays["windows"])
    assert out.reduced == arrays["reduced"] and len(out.groups.anchors) == params["count"]
    np.testing.assert_allclose(out.ratio, arrays["ratio_after"], rtol=1e-12)
    window = torch.repeat_interleave(out.windows[:, 1] - out.windows[:, 0] + 1)
    anchors = out.groups.anchors
    if params["newline"]:
        anchors = torch.cat([anchors, (anchors // math.isqrt(x.shape[1])).unique() * math.isqrt(x.shape[1])])
    counts = torch.bincount(window[anchors // x.shape[1]], minlength=len(out.windows))
    np.testing.assert_array_equal(counts, arrays["window_counts"])
    if not params["stable_under_official_noise"]:
        return
    np.testing.assert_array_equal(out.groups.anchors, arrays["index"])
    tokens = out.groups.features(x.flatten(0, 1))
    if params["newline"]:
        tokens = with_newlines(out, tokens, x.shape[1], torch.from_numpy(arrays["newline_row"]).double())
    np.testing.assert_allclose(tokens, arrays["tokens"], rtol=0, atol=ATOL)


def with_newlines(out: ReleasedHoliTom, tokens: torch.Tensor, positions: int, newline: torch.Tensor) -> torch.Tensor:
    """Insert a row behind each row of a square frame that has tokens."""
    side = math.isqrt(positions)
    rows = out.groups.anchors // side
    order = torch.sort(out.groups.anchors, stable=True).indices
    lines = [torch.cat([tokens[order[rows[order] == row]], newline[None]]) for row in rows.unique().tolist()]
    return torch.cat(lines)
