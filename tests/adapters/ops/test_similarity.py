"""Frames and similarities: normalization, rescaling and neighbours."""

from __future__ import annotations

import math

import pytest
import torch

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.similarity import Frames, normalize, rescale_if_extreme, temporal_similarities
from tests.support.videos import DTYPES, noise, synthetic


def test_normalize_leaves_zeros_and_counts_short_rows_as_the_floor() -> None:
    for dtype in DTYPES:
        x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype)
        assert normalize(x, 1e-12).tolist() == torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=dtype).tolist()
    assert normalize(torch.tensor([[1e-9, 0.0]]), 1e-8).tolist() == [[pytest.approx(0.1), 0.0]]


def test_frames_in_their_dtype_in_fp32_or_rescaled() -> None:
    video = VideoTokens.from_grid(synthetic((3, 2, 2)).double() * 2.0**500)
    assert [frame.dtype for frame in Frames(video, native=True)] == [torch.float64] * 3
    assert all(torch.isinf(frame).all() for frame in Frames(video))
    frames = Frames(video, rescale=True)
    assert 0.5 <= max(float(frame.abs().max()) for frame in frames) < 1
    assert len(list(frames)) == len(list(frames)) == 3  # as often as needed


def test_rescaling_is_by_a_power_of_two_and_only_of_extreme_features() -> None:
    x = noise(3, 2, 2, 8)
    for exponent in (-19, 0, 17):
        assert rescale_if_extreme(x * 2.0**exponent).data_ptr() != rescale_if_extreme(x).data_ptr()
        assert torch.equal(rescale_if_extreme(x * 2.0**exponent), x * 2.0**exponent)
    for exponent in (-1000, -60, 60, 1000):
        out = rescale_if_extreme(x.double() * 2.0**exponent)
        ratio = (out.double() / x.double()).unique()
        assert out.dtype == torch.float32 and len(ratio) == 1 and math.frexp(float(ratio))[0] == 0.5
        assert 0.5 <= float(out.abs().max()) <= 1
    y = x * 2.0**30
    assert rescale_if_extreme(y, max_exponent=33) is y
    assert rescale_if_extreme(torch.zeros(2, 3)).tolist() == [[0] * 3] * 2


def test_temporal_similarities_are_cosines_and_exact_for_equal_tokens() -> None:
    x = synthetic((5, 2, 3)).flatten(1, 2)
    expected = torch.nn.functional.cosine_similarity(x[1:].double(), x[:-1].double(), dim=-1)
    assert torch.allclose(temporal_similarities(x).double(), expected, atol=1e-6)
    x[2] = x[1]
    x[4, 0] = 0
    out = temporal_similarities(x)
    assert out[1].tolist() == [1] * 6 and out[3, 0] == 0
    assert temporal_similarities(x[:1]).shape == (0, 6)
