"""Golden files of VisionZip: tokens of images and of video frames of the authors' released code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.adapters.reference.visionzip import image_tokens, rows_with_newlines, zip_frame
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    """Check every case of both forms; where the release fails, so does the reference."""
    for name, params, arrays in golden_cases(data, failing=True):
        with case(name):
            tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
            run = _check_image if params["variant"] == "image" else _check_video
            if "error" in params:
                with pytest.raises(InputError, match="contextual"):
                    run(params, tensors)
            else:
                run(params, tensors)


def _check_image(params: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    counts = params["dominant"], params["contextual"]
    for b, hidden in enumerate(arrays["hidden"]):
        attention, metric = arrays["cls_attention"][b], arrays["metric"][b]
        dominant = zip_frame(attention.sum(0)[1:], metric[1:], *counts).dominant
        if "out" in arrays:
            assert {0, *(dominant + 1).tolist()} == set(arrays["all_indices"][b].tolist())
        out = image_tokens(hidden, attention, metric, *counts)
        np.testing.assert_allclose(out, arrays["out"][b], atol=ATOL)


def _check_video(params: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    x, out = arrays["features"], []
    for frame, attention, metric in zip(x, arrays["attention"], arrays["metric"], strict=True):
        chosen = zip_frame(attention, metric, params["dominant"], params["contextual"])
        tokens = chosen.tokens(frame)
        if params.get("newline"):
            tokens = rows_with_newlines(tokens, chosen, math.isqrt(len(frame)), arrays["newline_row"])
        out.append(tokens)
    np.testing.assert_allclose(torch.cat(out), arrays["out"].flatten(0, -2), atol=ATOL)
    _check_class(params, x, arrays["attention"])


def _check_class(params: dict[str, Any], x: Tensor, attention: Tensor) -> None:
    """``official`` must give the values of the release with features as keys, in order of place."""
    n = params["dominant"] + params["contextual"]
    official = framefold.build("visionzip", n * len(x), variant="official", attention_share=params["dominant_ratio"])
    found = official(VideoTokens.from_grid(x[:, :, None], attention=attention[:, :, None])).tokens
    expected = []
    for frame, a in zip(x, attention, strict=True):
        chosen = zip_frame(a, frame, params["dominant"], params["contextual"])
        place = torch.cat([chosen.dominant.sort().values, chosen.targets])
        expected.append(chosen.tokens(frame)[place.sort().indices])
    np.testing.assert_allclose(found.features, torch.cat(expected), atol=ATOL)
