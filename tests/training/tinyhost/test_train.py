"""The tinyhost: a stock checkpoint, its training from random weights, resuming, and its parts."""

from __future__ import annotations

import csv
import errno
import json
import os

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.generate import generate
from framefold.data.synthetic.render import HALO
from framefold.errors import HostError
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import answer_logits
from framefold.training.tinyhost.batches import build_video_batch, prefix_kwargs
from framefold.training.tinyhost.build import Architecture
from framefold.training.tinyhost.evaluate import wilson
from framefold.training.tinyhost.frames import IGNORE, KINDS, PROBES, frame_batch
from framefold.training.tinyhost.modules import LanguageTraining
from framefold.training.tinyhost.optimizer import HostOptimizer, orthogonalize
from framefold.training.tinyhost.stage import Stage
from framefold.training.tinyhost.token_views import TokenView, evidence_tokens, reduce_tokens
from framefold.training.tinyhost.train import EPOCH, train
from tests.support.paths import ROOT, TINYHOST

SMALL = Architecture(vision_width=16, vision_ff=32, vision_layers=1, text_width=32, text_ff=64, text_layers=1)
STAGES = [
    Stage("tower", "vision", steps=3, batch=4),
    Stage("words", "language", steps=8, tokens=64, frames=(16, 16), mixes=(TokenView("evidence", keep=(0.02, 0.05)),)),
]


@pytest.fixture(scope="module")
def tinyhost():
    torch.set_num_threads(1)
    return load_host(TINYHOST)


def test_tinyhost_is_a_small_stock_checkpoint(tinyhost):
    assert type(tinyhost.model) is LlavaOnevisionForConditionalGeneration
    assert sum(file.stat().st_size for file in TINYHOST.iterdir()) < 10e6
    assert AutoTokenizer.from_pretrained(TINYHOST).video_token_id == tinyhost.model.config.video_token_id
    assert not tinyhost.model.training and not any(p.requires_grad for p in tinyhost.model.parameters())


def test_stock_forward_from_pixels_equals_the_training_path(tinyhost):
    video = generate(1, split="test", frames=16)
    pixels = tinyhost.pixel_values(video.frames)
    tokens = tinyhost.encode_pixels(pixels)
    index = torch.arange(tokens.shape[1] - 1)[None]
    batch = build_video_batch(tinyhost.model, tinyhost.tokenizer, [video.questions], tokens, index, tokens.shape[1] - 1)
    logits = answer_logits(tinyhost.model, prefix_kwargs(batch), batch.rows)
    for row, question in enumerate(video.questions):
        content = [{"type": "video"}, {"type": "text", "text": question.text}]
        chat = [{"role": "user", "content": content}]
        text = tinyhost.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        text = text.replace("<video>", "<video>" * tokens.shape[1])
        ids = tinyhost.tokenizer(text, return_tensors="pt").input_ids
        stock = tinyhost.model(input_ids=ids, pixel_values_videos=pixels).logits[0, -1]
        at = int((batch.rows.labels[row] != -100).int().argmax()) - 1
        torch.testing.assert_close(logits[row, at], stock, atol=1e-3, rtol=1e-4)


def test_tinyhost_generates_one_word_and_stops(tinyhost):
    video = generate(0, split="test", frames=16)
    pixels = tinyhost.pixel_values(video.frames)
    text = "<user>" + "<video>" * (16 * 16 + 1) + " how many red flashes ?<assistant>"
    ids = tinyhost.tokenizer(text, return_tensors="pt")
    out = tinyhost.model.generate(**ids, pixel_values_videos=pixels, max_new_tokens=5, do_sample=False)
    words = tinyhost.tokenizer.decode(out[0, ids.input_ids.shape[1] :]).split("</s>")[0].split()
    assert len(words) == 1 and words[0] in ("one", "two", "three", "four")


def test_pixel_values_resize_and_normalise(tinyhost):
    frames = np.full((16, 32, 32, 3), 255, np.uint8)
    pixels = tinyhost.pixel_values(frames)
    assert pixels.shape == (1, 16, 3, 64, 64)
    torch.testing.assert_close(pixels, torch.ones_like(pixels), atol=1e-5, rtol=0)
    assert tinyhost.pixel_values([frames, frames]).shape == (2, 16, 3, 64, 64)
    with pytest.raises(HostError, match="uint8"):
        tinyhost.pixel_values(frames.astype(np.float32))


def test_unusable_host_folders_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(HostError, match="framefold tinyhost train"):
        load_host(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(HostError, match="'llama'"):
        load_host(tmp_path)
    (tmp_path / "config.json").write_text((TINYHOST / "config.json").read_text())
    with pytest.raises(HostError, match="damaged or incomplete"):
        load_host(tmp_path)


def test_interrupt_ends_training_as_an_interrupt(tmp_path, monkeypatch):
    def interrupted(self, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageTraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(str(tmp_path / "host"), STAGES, SMALL, seed=1)


def test_full_disk_leaves_the_last_resume_point_intact(tmp_path, monkeypatch):
    monkeypatch.setattr("framefold.training.tinyhost.train.EPOCH", 2)
    save, calls = torch.save, []

    def full_at_the_third(content, file):
        calls.append(file)
        if len(calls) == 3:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(content, file)

    monkeypatch.setattr(torch, "save", full_at_the_third)
    with pytest.raises(OSError, match="No space left"):
        train(str(tmp_path / "host"), STAGES, SMALL, seed=1)
    for file in tmp_path.rglob("*.ckpt"):
        assert torch.load(file, weights_only=True)["state_dict"]
    assert list(tmp_path.rglob("*.part")) == []


def test_resumed_training_equals_uninterrupted_training(tmp_path, monkeypatch):
    monkeypatch.setattr("framefold.training.tinyhost.train.EPOCH", 4)
    train(str(tmp_path / "uninterrupted"), STAGES, SMALL, seed=1)
    step = LanguageTraining.training_step

    def break_off(self, batch, batch_idx):
        if self.global_step == 6:
            raise InterruptedError
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(LanguageTraining, "training_step", break_off)
        train(str(tmp_path / "resumed"), STAGES, SMALL, seed=1)
    first = torch.load(tmp_path / "resumed.work" / "words" / "last.ckpt", weights_only=True)
    assert first["global_step"] == 4
    train(str(tmp_path / "resumed"), STAGES, SMALL, seed=1)
    uninterrupted, resumed = load_host(tmp_path / "uninterrupted").model, load_host(tmp_path / "resumed").model
    for (name, one), other in zip(uninterrupted.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name
    rows = list(csv.DictReader((tmp_path / "resumed" / "training_curve.csv").open()))
    assert {row["step"] for row in rows if row["stage"] == "words"} == {"4", "8"}
    assert not list((tmp_path / "resumed").glob(".saving*"))


def test_reduced_tokens_keep_their_places():
    videos = [generate(i, frames=16) for i in range(2)]
    features = torch.arange(2 * 256, dtype=torch.float32).view(2, 256, 1)
    for how in ("full", "random", "frames", "pooled", "evidence", "events", "arrivals"):
        kept, index = reduce_tokens(features, videos, how, 64, RandomStream(1), side=4)
        assert kept.shape[:2] == index.shape and (index.diff(dim=1) > 0).all(), how
        if how == "pooled":
            torch.testing.assert_close(kept[:, 0, 0], features[:, [0, 16, 32, 48], 0].mean(dim=1))
        else:
            torch.testing.assert_close(kept[..., 0], features[..., 0].gather(1, index))
        if how in ("evidence", "events", "arrivals"):
            evidence = [set(np.flatnonzero(evidence_tokens(video, 4, how))) for video in videos]
            assert all(expected <= set(got.tolist()) for expected, got in zip(evidence, index, strict=True))
        elif how != "full":
            assert kept.shape[1] == 64, how


def test_evidence_views_hold_one_another():
    for index in range(4):
        video = generate(index, frames=16, difficulty="crowded")
        evidence, events, arrivals = (evidence_tokens(video, 8, how) for how in ("evidence", "events", "arrivals"))
        assert 0 < arrivals.sum() < events.sum() < evidence.sum()
        assert (arrivals <= events).all() and (events <= evidence).all()
        boxes = [box for event in video.events if event.kind in ("flash", "mover") for box in event.boxes]
        assert set(np.flatnonzero(events) // 64) == {box[0] for box in boxes}


def test_frame_labels_match_the_pixels_of_a_token():
    frames, labels = frame_batch(0, seed=0, frames=80)
    assert frames.shape == (80, 64, 64, 3) and set(labels) == set(PROBES)
    cells = frames.reshape(80, 4, 16, 4, 16, 3).swapaxes(2, 3).reshape(80, 16, 256, 3).astype(int)
    for kind, disc in ((kind, HALO[kind]) for kind in KINDS if kind in HALO):
        of_disc = (np.abs(cells - disc).max(axis=-1) < 45).mean(axis=-1)
        assert of_disc[labels["kind"] == KINDS.index(kind)].mean() > 0.15 > 0.03 > of_disc[labels["kind"] == 0].mean()
    flash = labels["kind"] == KINDS.index("flash")
    most = {name: (number or 4) - 1 for name, number in PROBES.items()} | {"kind": KINDS.index("flash")}
    for name, label in labels.items():
        assert label.shape == (80, 16) and label.max() == most[name]
        assert (label[flash] != IGNORE).all()


def test_optimizer_orthogonalises_matrices_and_descends():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(24, 16)))
    assert values.min() > 0.6 and values.max() < 1.3
    net = torch.nn.Linear(8, 8)
    x, y = torch.randn(64, 8), torch.randn(64, 8)
    optimizer = HostOptimizer([net.weight], [net.bias], lr=0.02)
    losses = []
    for _ in range(60):
        loss = (net(x) - y).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_wilson_interval_contains_the_share_and_shrinks():
    share, low, high = wilson(0.9, 100)
    assert share == 0.9 and 0.82 < low < share < high < 0.95
    assert wilson(0.9, 1000)[1] > low and wilson(0.0, 10)[1] == 0.0


def test_packaged_recipes_match_the_signature_of_train():
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(train)
    for recipe in ("cpu.yaml", "crowded.yaml", "gpu.yaml"):
        given = parser.parse_args(["--config", str(ROOT / "configs" / "tinyhost" / recipe), "--out", "x"])
        stages = parser.instantiate_classes(given).stages
        kinds = [stage.kind for stage in stages]
        assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"vision", "language"}
        assert all(stage.steps % EPOCH == 0 for stage in stages)
        assert stages[-1].frames[0] <= 64 <= stages[-1].frames[1]
        assert max(stages[-1].mixes, key=lambda mix: mix.share).how == "full"
