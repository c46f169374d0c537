"""Golden files of TimeChat-Online's differential token drop: the tokens that its released code keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.dtd import dtd_by_features, dtd_by_pixels
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    """Check every case: drops by features, also as a variant of ``evs``, or by pixels."""
    for name, params, arrays in golden_cases(data):
        with case(name):
            check_case(params, arrays)


def check_case(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    x, threshold = torch.from_numpy(arrays["features"]), params["threshold"]
    share = None if params["absolute"] else threshold
    if params["method"] == "feature":
        kept = dtd_by_features(x.flatten(1, 2), threshold, share)
        compressor = framefold.build("evs", variant="threshold", threshold=threshold, drop_share=share)
        index = compressor(VideoTokens.from_grid(x)).tokens.index
        np.testing.assert_array_equal(index, arrays["keep"].reshape(-1).nonzero()[0])
    else:
        mean, std = torch.tensor(params["mean"]), torch.tensor(params["std"])
        kept = dtd_by_pixels(torch.from_numpy(arrays["pixels"]), mean, std, threshold, share)
    np.testing.assert_array_equal(kept, arrays["keep"].reshape(kept.shape))
    np.testing.assert_allclose((~kept[1:]).float().mean(1), arrays["drop_ratio"], atol=1e-6)
