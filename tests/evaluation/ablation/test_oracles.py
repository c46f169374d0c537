"""Oracles keep annotated tokens and fill the budget evenly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from framefold import VideoTokens
from framefold.data.evidence import evidence_mask
from framefold.data.synthetic.recipe import Recipe
from framefold.evaluation.ablation.ask import evaluate_questions
from framefold.evaluation.ablation.batches import Batches, HeldOutBatch
from framefold.evaluation.ablation.feature_cache import FeatureCache
from framefold.evaluation.ablation.heldout import SyntheticVideos
from framefold.evaluation.rows.keep_evidence import KeepEvidence
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host
from tests.support.paths import TINYHOST

RECIPE = Recipe((16, 16), 0, "test", "hard")
GRID = (16, 4, 4)


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host(TINYHOST)


@pytest.fixture(scope="module")
def batch(host: Host, tmp_path_factory: pytest.TempPathFactory) -> HeldOutBatch:
    """Two synthetic videos as encoded by the shipped host."""
    cache = FeatureCache(tmp_path_factory.mktemp("features"), host, SyntheticVideos(RECIPE, 2), {})
    cache.fill()
    return next(iter(Batches(host, cache, 2)))


def test_evidence_is_kept_and_the_budget_is_filled_evenly() -> None:
    video = VideoTokens.from_grid(torch.randn(5, 2, 2, 3))
    some, everything = np.zeros(20, bool), np.ones(20, bool)
    some[[3, 8]] = True
    oracle = KeepEvidence(lambda n: 6)
    oracle.begin(SimpleNamespace(evidence=[some, everything]))
    first, second = oracle(video).tokens, oracle(video).tokens
    assert len(first) == len(second) == 6
    assert {3, 8} <= set(first.index.tolist())
    assert first.index.tolist() == sorted(first.index.tolist())
    oracle = KeepEvidence(lambda n: 2)
    oracle.begin(SimpleNamespace(evidence=[np.zeros(10, bool)]))
    assert oracle(VideoTokens.from_grid(torch.randn(10, 1, 1, 3))).tokens.index.tolist() == [2, 7]


def test_masks_belong_to_the_questions_and_events_of_the_videos(batch: HeldOutBatch) -> None:
    alone = batch.encoded.one_video_per_question()
    assert alone.types == batch.encoded.types and len(alone.encoded) == len(batch.evidence)
    owners = batch.encoded.rows.video.tolist()
    assert all(clip is batch.encoded.encoded[video] for clip, video in zip(alone.encoded, owners, strict=True))
    assert len({mask.tobytes() for mask in batch.evidence}) > 2
    videos = [RECIPE.video(index) for index in (0, 1)]
    questions = [question for video in videos for question in video.questions]
    for question, mask in zip(questions, batch.evidence, strict=True):
        assert np.array_equal(mask, evidence_mask(question.evidence, GRID).reshape(-1)), question.text
    for video, mask in zip(videos, batch.events, strict=True):
        boxes = [box for event in video.events if event.kind in ("flash", "mover") for box in event.boxes]
        assert np.array_equal(mask, evidence_mask(boxes, GRID).reshape(-1))


def test_oracle_of_events_keeps_every_event_once_for_all_questions(host: Host, batch: HeldOutBatch) -> None:
    calls: list[int] = []
    oracle = KeepEvidence(lambda n: calls.append(n) or 100, query_aware=False)
    _, kept, _ = evaluate_questions(host, oracle, [batch], kept_videos=2)
    assert len(calls) == len(kept) == 2, "one call per video, not per question"
    for entry, mask in zip(kept, batch.events, strict=True):
        assert set(np.flatnonzero(mask)) <= set(entry["index"]) or mask.sum() > 100
