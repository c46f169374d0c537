"""Golden files of V-CAST: curvature, weights, frame budgets and kept tokens of the authors' released code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.vcast import curvature, outlier_scores
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

STILL = 1e-4  # the direction of a shorter step between normalized frame means is a rounding error


def check(data: Any) -> None:
    """Check every case; of a still video only the number of tokens, because its curvature is a rounding error."""
    for name, params, arrays in golden_cases(data):
        with case(name):
            check_case(params, arrays)


def check_case(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    x = torch.from_numpy(arrays["features"])[:, :, None]
    video, min_tokens, temperature = VideoTokens.from_grid(x), params["min_k"], params["temperature"]
    official = framefold.build(
        "vcast", float(params["retain_ratio"]), variant="official", min_tokens=min_tokens, temperature=temperature
    )
    index = official(video).tokens.index
    if "index" not in arrays:  # the release returns the video as it is
        return np.testing.assert_array_equal(index, np.arange(len(video)))
    assert len(index) == len(arrays["index"])
    means = outlier_scores(video).mean
    steps = torch.linalg.vector_norm(means.diff(dim=0), dim=-1)
    if bool((steps < STILL).any()):
        return
    np.testing.assert_array_equal(index, arrays["index"])
    if "curvature" in arrays and len(means) > 1:
        bends = curvature(means)
        atol = max(1e-4, 2e-7 / float(steps.min()))  # of the direction of the shortest step
        np.testing.assert_allclose(bends, arrays["curvature"], atol=atol)
        np.testing.assert_allclose(torch.softmax(bends / temperature, 0), arrays["weights"], atol=atol)
        per_frame = video.per_frame
        np.testing.assert_array_equal(torch.bincount(index // per_frame, minlength=len(means)), arrays["budgets"])
