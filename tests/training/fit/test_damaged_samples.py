"""Samples that the schema or the host refuses are counted and named, and the training continues without them."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.data.loading.loader import Batch, ResumableLoader
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import DataError, InputError
from framefold.training.accepted_samples import encode_accepted
from framefold.training.frozen_host.load import load_host
from framefold.training.module import CompressorModule
from tests.support.own_shards import BAD_SAMPLES, write_own_shards

SAMPLES = 20
BAD = {3 * number + 1: change for number, change in enumerate(BAD_SAMPLES.values())}  # 1, 4, 7, 10, 13
BAD |= {14: {"answer": "</s>", "choices": []}, 15: {"text": "<assistant> yes"}}  # refused by the host, like 1


@pytest.fixture(scope="module")
def bad_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 samples, of which 7 are damaged: three for this host alone."""
    return write_own_shards(tmp_path_factory.mktemp("bad") / "shards", SAMPLES, BAD)


@pytest.fixture
def fit(random_host: Path, bad_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Call framefold fit on these shards, one sample a batch; returns the exit status."""

    def run(name: str, *args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["framefold"])
        words = ["fit", "--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
        words += ["--model.host", str(random_host), "--data.shards", str(bad_shards), "--data.batch_size", "1"]
        words += ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path / name)]
        words += ["--trainer.limit_val_batches", "0", "--trainer.max_epochs", "1", "--trainer.max_steps", "-1"]
        return main([*words, *args])

    return run


def last(root: Path, version: int = 0) -> dict[str, Any]:
    return torch.load(root / f"version_{version}" / "checkpoints" / "last.ckpt", weights_only=True)


def loader_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    (state,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    return state


@pytest.mark.filterwarnings("ignore")
def test_fit_counts_names_and_passes_over_damaged_samples_and_resumes_exactly(fit, tmp_path, monkeypatch):
    allowed = ("--data.max_damaged", "0.4", "--last.every", "1")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fit("complete", *allowed) == 0
    named = [str(w.message) for w in caught if "damaged sample skipped" in str(w.message)]
    assert len(named) == 5 and all(any(f"own-{number}." in text for number in BAD) for text in named), named
    complete = last(tmp_path / "complete")
    assert complete["global_step"] == SAMPLES and loader_state(complete)["damaged"] == len(BAD)

    real = CompressorModule.training_step

    def stop(module, batch, index):
        if module.global_step == 9:
            raise KeyboardInterrupt
        return real(module, batch, index)

    monkeypatch.setattr(CompressorModule, "training_step", stop)
    assert fit("resumed", *allowed) != 0
    before = last(tmp_path / "resumed")
    assert before["global_step"] == 9 and 0 < loader_state(before)["damaged"] < len(BAD)
    monkeypatch.setattr(CompressorModule, "training_step", real)
    assert fit("resumed", *allowed, "--resume", "auto") == 0
    resumed = last(tmp_path / "resumed", 1)
    assert resumed["global_step"] == SAMPLES and loader_state(resumed)["damaged"] == len(BAD)
    for name, value in complete["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


@pytest.mark.filterwarnings("ignore")
def test_more_damage_than_allowed_is_one_line_with_a_sample(fit, capsys):
    assert fit("run", "--data.max_damaged", "0.1") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "samples of" in line and "max_damaged" in line and "last: own-" in line, line


@pytest.mark.filterwarnings("ignore")
def test_validation_passes_over_damaged_samples(fit, bad_shards, tmp_path):
    on = ("--data.val_shards", str(bad_shards), "--data.max_damaged", "0.4", "--data.val_batch_size", "1")
    assert fit("run", *on, "--trainer.limit_val_batches", "1.0", "--trainer.max_steps", "1",
               "--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "1") == 0  # fmt: skip


# ---- one batch ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(random_host: Path) -> Any:
    return load_host(random_host)


def loader_of(shards: Path) -> ResumableLoader:
    return ResumableLoader(ShardStream(str(shards), 1, shuffle=False, max_damaged=1.0))


@pytest.mark.filterwarnings("ignore:damaged sample skipped")
def test_a_batch_loses_its_refused_samples_and_an_empty_one_receives_the_first_accepted(host, bad_shards):
    loader = loader_of(bad_shards)
    samples = {sample.key: sample for sample in loader.stream.samples()}
    batch = Batch(tuple(samples[f"own-{number}"] for number in (14, 15, 16, 17)))
    encoded, kept = encode_accepted(host, batch, loader, False)
    assert [sample.key for sample in kept] == ["own-16", "own-17"] and len(encoded.encoded) == 2
    assert loader.lost == loader.damaged == 2
    _, kept = encode_accepted(host, Batch((samples["own-1"],)), loader, False)
    assert [sample.key for sample in kept] == ["own-0"] and loader.damaged == 3


def test_what_every_sample_is_refused_for_is_raised_as_it_is(host, bad_shards, monkeypatch):
    loader, calls = loader_of(bad_shards), []

    def refuse(sample, attention):
        calls.append(sample.key)
        raise InputError(f"{sample.key}: never")

    monkeypatch.setattr(type(host), "encode_sample", lambda self, *args: refuse(*args))
    batch = next(iter(loader))
    with pytest.raises(InputError, match="own-0: never"):
        encode_accepted(host, batch, loader, False)
    assert len(calls) <= 1 + SAMPLES and loader.damaged == 0
    generated = ResumableLoader(SyntheticStream(Recipe((16, 16)), 2, 2))
    for other in (generated, [batch]):
        calls.clear()
        with pytest.raises(InputError, match="never"):
            encode_accepted(host, batch, other, False)
        assert len(calls) == 1


def test_video_of_which_the_vision_encoder_makes_nan_is_named(host, monkeypatch):
    real = type(host).encode_video

    def overflow(self, sample, attention):
        encoded = real(self, sample, attention)
        return replace(encoded, features=encoded.features * float("nan"))

    monkeypatch.setattr(type(host), "encode_video", overflow)
    with pytest.raises(InputError, match="^train-0-00000000: the vision encoder of this host returned NaN"):
        host.encode_sample(Recipe((16, 16)).sample(0))


def test_texts_that_this_host_cannot_take_are_named(host):
    sample = Recipe((16, 16)).sample(0)
    question = sample.questions[0]
    for field, value, text in (
        ("text", "a <image> b", r"questions\[1\]\.text contains '<image>'"),
        ("answer", "<video>", r"questions\[1\]\.answer contains '<video>'"),
    ):
        changed = type(question)(**{**vars(question), field: value})
        wrong = type(sample)(sample.key, sample.frames, sample.times, (question, changed))
        with pytest.raises(DataError, match=f"^{sample.key}.json: {text}"):
            host.encode_sample(wrong)
            pytest.fail(text)
