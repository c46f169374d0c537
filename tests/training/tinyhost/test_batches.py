"""Batches of host training: the same from any process and after a resume, balanced over question types."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch

from framefold.data.synthetic.render import TEXTURES
from framefold.errors import DataError, HostError
from framefold.training.frozen_host.load import load_host
from framefold.training.tinyhost.batches import DrawnVideos, draw_videos, video_batch
from framefold.training.tinyhost.stage import Stage
from framefold.training.tinyhost.token_views import Mix, evidence_tokens
from framefold.training.tinyhost.train import EPOCH, Epochs, train

STAGE = Stage("some", "language", 4, tokens=400, frames=(16, 17), questions=14, mixes=(Mix("full"),))
DRAW = partial(draw_videos, STAGE, 0, 4)


def same(one: DrawnVideos, other: DrawnVideos) -> bool:
    frames = zip(one.videos, other.videos, strict=True)
    return all(np.array_equal(a.frames, b.frames) for a, b in frames) and one.asked == other.asked


def test_worker_processes_draw_what_the_training_process_would():
    alone, helped = (list(islice(Epochs(DRAW, 0, 4, workers).batches, 4)) for workers in (0, 2))
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))
    assert not same(alone[0], alone[1])


def test_a_resumed_stage_goes_on_with_the_batches_of_its_step():
    steps = Epochs(lambda step: step, begun=EPOCH, steps=3 * EPOCH, workers=0)
    assert list(steps) == list(range(EPOCH, 2 * EPOCH)) and list(steps) == list(range(2 * EPOCH, 3 * EPOCH))


def test_a_video_is_asked_about_every_type_before_any_type_comes_again():
    drawn = DRAW(3)
    lengths = {len(asked) for asked in drawn.asked}
    assert len(lengths) == 1 and lengths.pop() <= STAGE.questions
    for asked, video in zip(drawn.asked, drawn.videos, strict=True):
        kinds = [question.type for question in asked]
        types = {question.type for question in video.every_question()}
        assert len(set(kinds[: len(types)])) == min(len(types), len(kinds))
        assert set(asked) <= set(video.every_question())


def test_a_mix_asks_its_own_types_and_videos_that_have_none_are_left_out():
    mixes = (Mix("full", types=("background", "bg_at")),)
    drawn = draw_videos(replace(STAGE, tokens=4000, mixes=mixes, bare=1.0), 0, 4, 0)
    assert {question.type for asked in drawn.asked for question in asked} <= {"background", "bg_at"}
    assert all(len(video.scenes) > 1 for video in drawn.videos) and len(drawn.videos) > 1
    for asked in drawn.asked:
        for question in asked:
            assert question.choices == TEXTURES and not set(question.text.split()) & set(TEXTURES)


def test_evidence_batches_keep_what_can_be_asked_about(random_host):
    stage = Stage("few", "language", 4, tokens=400, frames=(16, 16), mixes=(Mix("evidence", keep=(0.01, 0.02)),))
    drawn = draw_videos(stage, 0, 4, 1)
    host = load_host(random_host)
    shown = video_batch(host.model, host.tokenizer, drawn)
    side = 4
    for i, video in enumerate(drawn.videos):
        held = torch.from_numpy(evidence_tokens(video, side)).nonzero()[:, 0]
        head = int((shown.input_ids[i] != host.model.config.video_token_id).sum())  # text before the video
        places = set((shown.position_ids[i, head:-1] - head).tolist())
        assert set(held.tolist()) <= places and len(places) < 16 * side * side


@pytest.mark.parametrize("name, text", [("tpu", "cpu, gpu or auto"), ("gpu", "no CUDA device")])
def test_an_accelerator_that_is_not_there_is_refused_before_the_work(tmp_path, name, text):
    if name == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(HostError, match=text):
        train(str(tmp_path / "host"), [STAGE], accelerator=name)
    assert not (tmp_path / "host").exists()


@pytest.mark.parametrize(
    "wrong, error, text",
    [
        ({"mixes": (Mix("events"),)}, HostError, "mix 'events'; known: full"),
        ({"types": ("nedle",)}, HostError, "question type 'nedle'; known: needle"),
        ({"kind": "audio"}, HostError, "kind 'audio'; known: vision"),
        ({"mixes": ()}, HostError, "needs mixes"),
        ({"steps": 0}, HostError, "at least one step"),
        ({"questions": 0}, HostError, "at least one question"),
        ({"difficulty": ()}, HostError, "needs a difficulty"),
        ({"difficulty": ("hardest",)}, DataError, "easy or hard"),
        ({"frames": (8, 16)}, DataError, "16 <= shortest"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_before_any_is_trained(tmp_path, wrong, error, text):
    with pytest.raises(error, match=text):
        train(str(tmp_path / "host"), [Stage("tower", "vision", 2), replace(STAGE, **wrong)])
    assert not (tmp_path / "host").exists() and not (tmp_path / "host.work").exists()
