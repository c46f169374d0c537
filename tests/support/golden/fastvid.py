"""Golden files of FastVID: segments, kept rows and tokens of the three forms of the authors' released code."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.fastvid import FastVIDSettings, Form, released_tokens
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    """Check every case; where the release fails, so does the reference.

    If the noise that the release adds to densities can change which tokens are targets, only numbers are compared.
    """
    for name, params, arrays in golden_cases(data, failing=True):
        with case(name):
            form = "onevision" if params["variant"] == "ov" else params["variant"]
            inputs = [torch.from_numpy(arrays[key]) for key in ("features", "frame_features", "attention")]
            if "error" in params:
                with pytest.raises(InputError, match="official"):
                    released_tokens(*inputs, form, _settings(params))
                continue
            out = released_tokens(*inputs, form, _settings(params))
            assert out.lengths == arrays["segment_lengths"].tolist() and len(out.index) == len(arrays["index"])
            if params.get("stable_under_official_noise", True):
                np.testing.assert_array_equal(out.index, arrays["index"])
                np.testing.assert_allclose(out.tokens, arrays["tokens"], atol=ATOL)
            if len(out.index):  # a video without tokens is refused
                _check_class(inputs[0], inputs[2], form, _settings(params))


def _settings(params: dict[str, Any]) -> FastVIDSettings:
    return FastVIDSettings(
        ratio=float(params["retention_ratio"]),
        context_ratio=params["STPrune_d"],
        stride=params["DTM_p"],
        beta=params["DTM_beta"],
        min_segments=params["DySeg_c"],
        cut=params["DySeg_tau"],
        still=params.get("DySeg_ignore", 1.0),
    )


def _check_class(x: Tensor, attention: Tensor, form: str, settings: FastVIDSettings) -> None:
    """``official`` must give what the release gives with frame means as vectors of the frames."""
    params = {key: value for key, value in vars(settings).items() if key != "ratio"}
    official = framefold.build("fastvid", settings.ratio, variant="official", form=form, **params)
    video = VideoTokens.from_grid(x[:, :, None], attention=attention[:, :, None])
    try:
        expected = released_tokens(x, x.mean(1), attention, cast(Form, form), settings)
    except InputError:  # these vectors give other segments
        with pytest.raises(InputError, match="official"):
            official(video)
        return
    found = official(video).tokens
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_allclose(found.features, expected.tokens, atol=ATOL)
