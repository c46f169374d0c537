"""Golden files of DyCoke's temporal merging: the kept rows of the authors' released code, in its order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.dycoke import released_rows
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    """Check every case; where the release fails, so does ``official``."""
    for name, params, arrays in golden_cases(data, failing=True):
        with case(name):
            x = torch.from_numpy(arrays["features"])
            video = VideoTokens.from_grid(x[:, :, None])
            official = framefold.build("dycoke", variant="official", rate=params["merging_ratio"])
            if "error" in params:
                with pytest.raises(InputError, match="official"):
                    official(video)
                continue
            rows = released_rows(x, params["merging_ratio"])
            np.testing.assert_array_equal(rows, arrays["index"])
            np.testing.assert_array_equal(official(video).tokens.index, np.sort(arrays["index"]))
