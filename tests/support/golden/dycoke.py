"""Golden files of DyCoke's temporal merging: the kept rows of the authors' released code, in its order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.dycoke import released_references, released_rows
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    """Check every case; where the release fails, so does ``official``."""
    for name, params, arrays in golden_cases(data, failing=True):
        with case(name):
            x = torch.from_numpy(arrays["features"])
            video = VideoTokens.from_grid(x[:, :, None])
            official = framefold.build("dycoke", variant="official", drop_share=params["merging_ratio"])
            if "error" in params:
                with pytest.raises(InputError, match="official"):
                    official(video)
                continue
            rows = released_rows(x, params["merging_ratio"])
            check_rows(x, rows, torch.from_numpy(arrays["index"]))
            np.testing.assert_array_equal(official(video).tokens.index, rows.sort().values)


def check_rows(x: torch.Tensor, rows: torch.Tensor, expected: torch.Tensor) -> None:
    """Rows may be exchanged only if rounding decides which of their cosines is smaller."""
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    cosine = torch.zeros(x.shape[:2], dtype=torch.float64)
    for t, reference in enumerate(released_references(len(x))):
        cosine[t] = torch.arange(x.shape[1]) if reference is None else (unit[t] * unit[reference]).sum(-1)
    np.testing.assert_array_equal(rows // x.shape[1], expected // x.shape[1])
    found, cosines = cosine.view(-1)[rows], cosine.view(-1)[expected]
    np.testing.assert_allclose(found, cosines, rtol=0, atol=1e-6)
