"""mean_similarity: the score of VisionSelector with identity projections."""

from __future__ import annotations

import torch

import framefold
from tests.support.contract import features, wrap


def test_it_keeps_the_tokens_with_the_largest_product_with_the_mean() -> None:
    x = features((6, 3, 4))
    flat = x.reshape(72, -1).double()
    scores = flat @ flat.mean(0)
    kept = framefold.build("mean_similarity", 20)(wrap(x)).tokens
    assert torch.equal(kept.index, scores.topk(20).indices.sort().values)
    assert torch.equal(kept.features, x.reshape(72, -1)[kept.index])


def test_the_scale_of_features_changes_nothing() -> None:
    x = features((6, 3, 4))
    expected = framefold.build("mean_similarity", 20)(wrap(x)).tokens.index
    for exponent in (-100, -40, 40, 100):  # squares would leave the range of fp32
        assert torch.equal(framefold.build("mean_similarity", 20)(wrap(x * 2.0**exponent)).tokens.index, expected)
