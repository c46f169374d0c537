"""Batches of the tinyhost training: reproducible in any process and after resuming, balanced over question types."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from itertools import islice
from threading import current_thread, main_thread
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from framefold.data.synthetic.render import TEXTURES
from framefold.errors import DataError, HostError
from framefold.training.frozen_host.load import load_host
from framefold.training.tinyhost.batches import RawBatch, encode_raw_batch, generate_batch
from framefold.training.tinyhost.build import Architecture, build_host, build_tokenizer
from framefold.training.tinyhost.modules import LanguageTraining, _even_weights
from framefold.training.tinyhost.stage import Stage
from framefold.training.tinyhost.token_views import TokenView, evidence_tokens, reduce_tokens
from framefold.training.tinyhost.train import EPOCH, EpochBatches, _encode_ahead, train

STAGE = Stage("some", "language", 4, tokens=400, frames=(16, 17), questions=14, mixes=(TokenView("full"),))
BATCH = partial(generate_batch, STAGE, 0, 4)


def same(one: RawBatch, other: RawBatch) -> bool:
    frames = zip(one.videos, other.videos, strict=True)
    return all(np.array_equal(a.frames, b.frames) for a, b in frames) and one.questions == other.questions


def test_worker_processes_generate_the_same_batches(monkeypatch):
    def in_forks(dataset: Any, **settings: Any) -> Any:
        """Build a loader whose workers fork, which is faster; spawned ones get a pickled data set."""
        assert settings.pop("multiprocessing_context") == "spawn"
        assert pickle.loads(pickle.dumps(settings["collate_fn"])) is settings["collate_fn"]
        return DataLoader(pickle.loads(pickle.dumps(dataset)), multiprocessing_context="fork", **settings)

    alone = list(islice(EpochBatches(BATCH, 0, 4, 0).batches, 4))
    monkeypatch.setattr("framefold.training.tinyhost.train.DataLoader", in_forks)
    with_workers = list(islice(EpochBatches(BATCH, 0, 4, 2).batches, 4))
    assert all(same(one, other) for one, other in zip(alone, with_workers, strict=True))
    assert not same(alone[0], alone[1])


def test_thread_encodes_the_batch_of_the_next_step_while_the_last_is_used():
    used: list[int] = []
    ahead: list[int] = []

    def encode(batch: int) -> int:
        assert current_thread() is not main_thread()
        ahead.append(batch - len(used))
        return 10 * batch

    for batch in _encode_ahead(encode, range(5)):
        used.append(batch)
    assert used == [0, 10, 20, 30, 40] and max(ahead) <= 2
    with pytest.raises(HostError, match="broken"):
        list(_encode_ahead(broken, range(5)))


def broken(batch: int) -> None:
    raise HostError("broken")


def test_resumed_stage_continues_with_the_batches_of_its_step():
    steps = EpochBatches(lambda step: step, first=EPOCH, steps=3 * EPOCH, workers=0)
    assert list(steps) == list(range(EPOCH, 2 * EPOCH)) and list(steps) == list(range(2 * EPOCH, 3 * EPOCH))


def test_questions_cycle_through_all_types():
    batch = BATCH(3)
    lengths = {len(questions) for questions in batch.questions}
    assert len(lengths) == 1 and lengths.pop() <= STAGE.questions
    for questions, video in zip(batch.questions, batch.videos, strict=True):
        kinds = [question.type for question in questions]
        types = {question.type for question in video.every_question()}
        assert len(set(kinds[: len(types)])) == min(len(types), len(kinds))
        assert set(questions) <= set(video.every_question())


def test_view_with_question_types_skips_videos_without_such_questions():
    mixes = (TokenView("full", types=("background", "bg_at")),)
    batch = generate_batch(replace(STAGE, tokens=4000, mixes=mixes, bare=1.0), 0, 4, 0)
    assert {question.type for questions in batch.questions for question in questions} <= {"background", "bg_at"}
    assert all(len(video.scenes) > 1 for video in batch.videos) and len(batch.videos) > 1
    for questions in batch.questions:
        for question in questions:
            assert question.choices == TEXTURES and not set(question.text.split()) & set(TEXTURES)


def test_evidence_view_keeps_the_evidence_of_every_question(random_host):
    stage = Stage("few", "language", 4, tokens=400, frames=(16, 16), mixes=(TokenView("evidence", keep=(0.01, 0.02)),))
    raw = generate_batch(stage, 0, 4, 1)
    host = load_host(random_host)
    batch = encode_raw_batch(host.model, host.tokenizer, raw)
    side = 4
    for i, video in enumerate(raw.videos):
        evidence = torch.from_numpy(evidence_tokens(video, side)).nonzero()[:, 0]
        head = int((batch.input_ids[i] != host.model.config.video_token_id).sum())  # text before the video
        places = set((batch.position_ids[i, head:-1] - head).tolist())
        assert set(evidence.tolist()) <= places and len(places) < 16 * side * side


@pytest.mark.parametrize("name, text", [("tpu", "cpu, gpu or auto"), ("gpu", "no CUDA device")])
def test_unavailable_accelerator_is_refused_before_training(tmp_path, name, text):
    if name == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(HostError, match=text):
        train(str(tmp_path / "host"), [STAGE], accelerator=name)
    assert not (tmp_path / "host").exists()


def test_invalid_stage_is_refused_before_any_is_trained(tmp_path):
    for wrong, error, text in [
        ({"mixes": (TokenView("relics"),)}, HostError, "mix 'relics'; known: full"),
        ({"types": ("nedle",)}, HostError, "question type 'nedle'; known: needle"),
        ({"kind": "audio"}, HostError, "kind 'audio'; known: vision"),
        ({"mixes": ()}, HostError, "needs mixes"),
        ({"steps": 0}, HostError, "at least one step"),
        ({"questions": 0}, HostError, "at least one question"),
        ({"difficulty": ()}, HostError, "needs a difficulty"),
        ({"difficulty": ("hardest",)}, DataError, "easy or hard"),
        ({"frames": (8, 16)}, DataError, "16 <= shortest"),
    ]:
        with pytest.raises(error, match=text):
            train(str(tmp_path / "host"), [Stage("tower", "vision", 2), replace(STAGE, **wrong)])
            pytest.fail(f"{wrong} was accepted")
    with pytest.raises(HostError, match="same name"):
        train(str(tmp_path / "host"), [STAGE, STAGE])
    assert not (tmp_path / "host").exists() and not (tmp_path / "host.work").exists()


@pytest.mark.parametrize("how", ["arrivals", "random", "pooled"])
def test_frames_without_a_kept_token_are_not_encoded(random_host, how, monkeypatch):
    stage = replace(STAGE, mixes=(TokenView(how, keep=(0.03, 0.03)),))
    host = load_host(random_host)
    encoded: list[int] = []
    encode = host.model.get_video_features
    monkeypatch.setattr(host.model, "get_video_features", lambda x, **kw: encoded.append(x.shape[1]) or encode(x, **kw))
    raw = generate_batch(stage, 0, 4, 1)
    batch = encode_raw_batch(host.model, host.tokenizer, raw)
    frames = len(raw.videos[0].frames)
    assert all(number == frames if how == "pooled" else number < frames for number in encoded)
    raw = generate_batch(stage, 0, 4, 1)
    pixels = [host.pixel_values(video.frames) for video in raw.videos]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        tokens = torch.cat([encode(one, return_dict=True).pooler_output for one in pixels]).float()
    kept, index = reduce_tokens(tokens[:, :-1], raw.videos, how, raw.count, raw.rng, 4)
    torch.testing.assert_close(batch.features, torch.cat([kept, tokens[:, -1:]], dim=1), atol=0.02, rtol=0.02)
    assert (batch.position_ids[:, -1 - index.shape[1] : -1] - index).unique().numel() == 1


def test_even_weights_give_each_type_the_same_sum():
    weights = _even_weights(("needle", "direction", "needle", "needle"))
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1, 1 / 3, 1 / 3]))


def test_stage_with_even_types_weighs_its_loss(monkeypatch):
    host, tokenizer = (
        build_host(Architecture(vision_width=16, vision_ff=32, vision_layers=1, text_layers=1), 0),
        build_tokenizer(),
    )
    losses = []
    for even in (False, True):
        module = LanguageTraining(host, tokenizer, replace(STAGE, tokens=2000, even_types=even), 0)
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        losses.append(float(module.training_step(module.encode_batch(module.batch_function()(3)), 0).detach()))
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 1
