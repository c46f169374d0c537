"""Golden files of CDPruner: relevance and kept tokens of the authors' released code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.cdpruner import released_picks, released_relevance
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

TIE = 1e-6  # a smaller gain is a rounding error, as it is of more tokens than their width


def check(data: Any) -> None:
    """Check the relevance of every case, and the kept tokens where no gain is a rounding error."""
    for name, params, arrays in golden_cases(data):
        with case(name):
            tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
            fit = released_relevance(tensors["image_embeds"], tensors["text_embeds"])
            np.testing.assert_allclose(fit, arrays["relevance"], atol=1e-4)
            if not params["margin_min"] >= TIE:  # it may be NaN
                continue
            for features, relevance, mask in zip(tensors["features"], fit, tensors["mask"], strict=True):
                picks = released_picks(features, relevance, params["k"])
                assert picks.sort().values.tolist() == mask.nonzero()[:, 0].tolist()
