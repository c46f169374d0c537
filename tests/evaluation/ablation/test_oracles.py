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


class Recording(KeepEvidence):
    """An oracle that remembers the masks of each batch."""

    def begin(self, batch: HeldOutBatch) -> None:
        super().begin(batch)
        self.given = [*getattr(self, "given", []), list(batch.evidence)]


def test_asked_again_compresses_for_the_question_before_about_the_same_video(host: Host, batch: HeldOutBatch) -> None:
    oracle = Recording(lambda n: 16)
    answers, _, _ = evaluate_questions(host, oracle, [batch])
    first, again = oracle.given
    owners = batch.encoded.rows.video.tolist()
    for video in (0, 1):
        rows = [row for row, owner in enumerate(owners) if owner == video]
        for row, before in zip(rows, rows[-1:] + rows[:-1], strict=True):
            assert again[row] is first[before], "its own masks, one question on"
    assert all(isinstance(answer["again"], bool) for answer in answers)
    right = [np.mean([answer[name] for answer in answers]) for name in ("correct", "again")]
    assert right[1] < right[0], "the evidence of another question is of little use"


def test_methods_that_do_not_read_the_question_are_not_asked_again(host: Host, batch: HeldOutBatch) -> None:
    answers, _, _ = evaluate_questions(host, KeepEvidence(lambda n: 16, query_aware=False), [batch])
    assert all("again" not in answer for answer in answers)
    assert {answer["where"] for answer in answers} <= {"centre", "edge", None}
    assert any(answer["when"] is not None for answer in answers)
