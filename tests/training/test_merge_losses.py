"""Loss of merged tokens against the evidence among their members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.training.frozen_host.batch import compress_batch, encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.merge_losses import merged_evidence_loss, union_of_evidence
from framefold.training.score_losses import evidence_masks


@pytest.fixture(scope="module")
def host(random_host: Any) -> Any:
    return load_host(random_host)


@pytest.fixture(scope="module")
def batch(host: Any) -> Any:
    return encode_batch(host, [Recipe((16, 20)).sample(i) for i in range(2)])


def reference(features: Tensor, assign: Tensor, evidence: Tensor, k: int) -> tuple[Tensor, list[bool]]:
    """Return the target of each token, one token at a time, and whether it represents evidence."""
    targets, holds = [], []
    for group in range(k):
        members = assign == group
        holds.append(bool((members & evidence).any()))
        targets.append(features[members & evidence if holds[-1] else members].mean(0))
    return torch.stack(targets), holds


def test_distance_is_to_the_mean_of_evidence_among_the_members(host: Any, batch: Any) -> None:
    tokens = compress_batch(host, framefold.build("pool", 0.1, spatial=2), batch).tokens
    evidence, expected = union_of_evidence(batch), []
    for video, clip, mask in zip(tokens, batch.encoded, evidence, strict=True):
        target, holds = reference(clip.features.flatten(0, 2), video.assign, mask, len(video))
        error = (video.features - target).square().mean(1) / target.square().mean(1)
        parts = [error[[i for i, held in enumerate(holds) if held is kind]].mean() for kind in (True, False)]
        assert float(parts[0]) > 0.01 and float(parts[1]) < 1e-9  # pool averages evidence with the rest
        expected.append(parts[0] + parts[1] / 2)
    with torch.no_grad():
        torch.testing.assert_close(merged_evidence_loss(tokens, batch), torch.stack(expected).mean())
        means = [
            replace(video, features=reference(clip.features.flatten(0, 2), video.assign, mask, len(video))[0])
            for video, clip, mask in zip(tokens, batch.encoded, evidence, strict=True)
        ]
        assert float(merged_evidence_loss(means, batch)) < 1e-9


def test_evidence_of_a_video_is_that_of_all_its_questions(batch: Any) -> None:
    masks, owners = evidence_masks(batch), batch.rows.video.tolist()
    for video, union in enumerate(union_of_evidence(batch)):
        own = [mask for mask, owner in zip(masks, owners, strict=True) if owner == video]
        assert torch.equal(union, torch.stack(own).any(0)) and 0 < int(union.sum()) < len(union)


def test_training_an_encoder_before_pooling_approaches_the_evidence(host: Any, batch: Any) -> None:
    torch.manual_seed(0)
    compressor = framefold.build("storm", 0.1, spatial=2, layers=1, inner=16)
    host.family.create_parameters(compressor, host.model)
    optimizer = torch.optim.AdamW(compressor.parameters(), lr=0.01)
    values = []
    for _ in range(15):
        loss = merged_evidence_loss(compress_batch(host, compressor.train(), batch).tokens, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.8 * values[0], values


def test_tokens_without_members_do_not_count(host: Any, batch: Any) -> None:
    tokens = compress_batch(host, framefold.build("pool", 0.1), batch).tokens
    features = [video.features.clone().requires_grad_() for video in tokens]
    tokens = [replace(video, features=rows) for video, rows in zip(tokens, features, strict=True)]
    without = [replace(video, assign=torch.where(video.assign == 3, -1, video.assign)) for video in tokens]
    merged_evidence_loss(without, batch).backward()
    for rows in features:
        assert rows.grad is not None and bool(rows.grad.isfinite().all()) and not bool(rows.grad[3].any())
        assert bool(rows.grad.any())


def test_compressors_that_do_not_learn_features_are_refused(host: Any, batch: Any) -> None:
    tokens = compress_batch(host, framefold.build("pool", 0.1), batch).tokens
    with pytest.raises(ConfigError, match="merged_evidence"):
        merged_evidence_loss(tokens, batch)
