"""framefold fit and validate on the command line: runs resume exactly, and errors are one line."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from framefold.__main__ import main
from framefold.training.module import CompressorModule
from tests.support.limits import HANG
from tests.support.ranks.fork_server import ForkServer

COMMON = ["--config", "compressor/fila", "--model.budget", "0.1", "--config", "trainer/cpu"]
COMMON += ["--trainer.enable_progress_bar", "false"]
WITHOUT_EPOCHS = ["--trainer.check_val_every_n_epoch", "null"]  # count steps between validations
SMALL = ["--data.batch_size", "2", "--data.val_videos", "2", "--data.val_frames", "16", "--data.val_batch_size", "2"]


@pytest.fixture(scope="module")
def fit_in(random_host: Path):
    """Call framefold fit or validate in this process; returns the exit status."""

    def run(root: Path, *args: str, verb: str = "fit") -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["framefold"])
            where = ["--model.host", str(random_host), "--trainer.default_root_dir", str(root)]
            return main([verb, *COMMON, *SMALL, *where, *args])

    return run


@pytest.fixture
def fit(fit_in, tmp_path):
    """Call framefold fit or validate with a run folder in ``tmp_path``."""
    return lambda name, *args, verb="fit": fit_in(tmp_path / name, *args, verb=verb)


def on_shards(shards: Path) -> list[str]:
    return ["--config", "data/shards", "--data.shards", str(shards), *SMALL]


def checkpoint(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "version_0" / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_a_run_writes_logs_and_checkpoints_of_the_adapter_alone(fit, shards, tmp_path, capsys):
    steps = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"]
    assert fit("run", *on_shards(shards), *steps) == 0
    files = {path.name for path in (tmp_path / "run" / "version_0").iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= files and any("tfevents" in name for name in files)
    saved = checkpoint(tmp_path / "run")
    assert set(saved["state_dict"]) == {"compressor.static", "compressor.score"}
    hyper = saved["hyper_parameters"]
    assert (hyper["compressor"], hyper["budget"]) == ("fila", 0.1)
    assert (
        hyper["params"]["dim"] == 32 and hyper["params"]["grid"] == [4, 4] and hyper["params"]["members"] == "cluster"
    )
    columns = (tmp_path / "run" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/answer", "train/visual_tokens", "val/accuracy", "val/accuracy@0.1"} <= set(columns)
    assert {"val/needle@0.1", "val/visual_tokens@0.1"} <= set(columns)
    out = capsys.readouterr()
    assert "192" not in out.err and "trainable parameters" in out.out and "last.ckpt" in out.out
    assert "Traceback" not in out.err and "Warning" not in out.err


def test_a_class_path_in_a_checkpoint_imports_nothing(fit, shards, tmp_path, monkeypatch, capsys):
    assert fit("run", *on_shards(shards), "--trainer.max_steps", "1") == 0
    file = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    saved["hyper_parameters"]["compressor"] = "stranger.Fila"
    torch.save(saved, file)
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["validate", "--config", "trainer/cpu", *SMALL, "--ckpt_path", str(file)]) == 2
    assert "names the class stranger.Fila" in capsys.readouterr().err
    assert not (tmp_path / "owned").exists()


def test_an_exported_checkpoint_is_the_trained_compressor(fit, shards, tmp_path):
    from framefold.adapters import load
    from framefold.cli.export import export

    assert fit("run", *on_shards(shards), "--trainer.max_steps", "3", "--trainer.limit_val_batches", "0") == 0
    adapter = load(export(str(tmp_path / "run"), str(tmp_path / "adapter")))
    saved = checkpoint(tmp_path / "run")["state_dict"]
    for name, value in adapter.state_dict().items():
        assert value.equal(saved[f"compressor.{name}"]) and bool((value != 0).any())


RUN = ["--trainer.max_steps", "16", "--data.seed", "3", "--trainer.limit_val_batches", "0"]


@pytest.fixture(scope="module")
def uninterrupted(fit_in, shards, tmp_path_factory) -> dict:
    """The last checkpoint of an uninterrupted run."""
    root = tmp_path_factory.mktemp("uninterrupted")
    assert fit_in(root, *on_shards(shards), *RUN) == 0
    return checkpoint(root)


@pytest.mark.parametrize(
    ("stop", "every", "extra"),
    [
        (6, 4, []),  # in the middle of the first epoch (11 steps)
        (13, 11, []),  # saved at the end of an epoch
        (14, 12, ["--data.workers", "1"]),
        (9, 4, ["--trainer.limit_val_batches", "1.0", "--trainer.val_check_interval", "4", *WITHOUT_EPOCHS]),
        (7, 3, ["--trainer.accumulate_grad_batches", "2"]),
    ],
)
def test_an_interrupted_run_ends_with_the_same_weights(
    fit, shards, uninterrupted, tmp_path, monkeypatch, stop, every, extra
):
    args = [*on_shards(shards), *RUN, "--last.every", str(every), *extra]
    expected = uninterrupted
    if "--data.workers" not in extra and extra:
        assert fit("uninterrupted", *args) == 0
        expected = checkpoint(tmp_path / "uninterrupted")
    real = CompressorModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == stop:
            raise KeyboardInterrupt
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(CompressorModule, "training_step", interrupted)
        assert fit("interrupted", *args) == 130
    assert checkpoint(tmp_path / "interrupted")["global_step"] == stop - stop % every
    last = str(tmp_path / "interrupted" / "version_0" / "checkpoints" / "last.ckpt")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores Ctrl-C from then on
    assert fit("resumed", *args, "--ckpt_path", last) == 0
    found = checkpoint(tmp_path / "resumed")
    assert expected["global_step"] == found["global_step"] == 16
    for name, value in expected["state_dict"].items():
        assert value.equal(found["state_dict"][name]), name
    assert expected["loops"]["fit_loop"]["state_dict"] == found["loops"]["fit_loop"]["state_dict"]


def test_a_finished_run_can_be_extended(fit, shards, tmp_path):
    args = [*on_shards(shards), "--trainer.limit_val_batches", "0", "--model.warmup", "0", "--model.lr_end", "1"]
    assert fit("uninterrupted", *args, "--trainer.max_steps", "9") == 0
    assert fit("short", *args, "--trainer.max_steps", "5") == 0
    last = str(tmp_path / "short" / "version_0" / "checkpoints" / "last.ckpt")
    assert fit("longer", *args, "--trainer.max_steps", "9", "--ckpt_path", last) == 0
    for name, value in checkpoint(tmp_path / "uninterrupted")["state_dict"].items():
        assert value.equal(checkpoint(tmp_path / "longer")["state_dict"][name])


def test_validate_measures_a_checkpoint_and_a_method_without_parameters(fit, shards, tmp_path, capsys):
    assert fit("run", *on_shards(shards), "--trainer.max_steps", "2", "--trainer.limit_val_batches", "0") == 0
    last = str(tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt")
    args = ["--config", "data/synthetic", *SMALL, "--model.val_budgets", "0.05", "8"]
    assert fit("val", *args, "--ckpt_path", last, verb="validate") == 0
    out = capsys.readouterr().out
    assert "val/accuracy@0.05" in out and "val/accuracy@8" in out
    assert fit("val", "--config", "compressor/scene_mean", *args, verb="validate") == 0
    assert "val/accuracy" in capsys.readouterr().out
    assert not (tmp_path / "val").exists()  # nothing is written


WRONG = [
    (["--model.budgt", "0.1"], "model.budgt"),
    (["--trainer.max_step", "3"], "trainer.max_step"),
    (["--model.lr", "fast"], "model.lr"),
    (["--model.budget", "1.5"], "1.5"),
    (["--model.compressor", "fla"], "'fila'"),
    (["--model.params.memebrs", "cluster"], "'members'"),
    (["--model.losses.anwser", "2"], "anwser"),
    (["--model.host", "/no/host"], "framefold tinyhost train"),
    (["--data.shards", "/no/shards"], "framefold shards synth"),
    (["--data.frames", "1"], "frames"),
    (["--config", "trainer/cqu"], "trainer/cpu"),
    (["--ckpt_path", "/no/such.ckpt"], "/no/such.ckpt"),
    (["--model.compressor", "scene_mean", "--model.params", "{}"], "nothing to train"),
]


def test_wrong_arguments_are_one_line(fit, shards, tmp_path, capsys):
    for args, text in WRONG:
        assert fit("run", *on_shards(shards), "--trainer.max_steps", "1", *args) == 2, args
        lines = [line for line in capsys.readouterr().err.strip().splitlines() if "Loading weights" not in line]
        assert len(lines) == 1 and lines[0].startswith("framefold: error: ") and text in lines[0], (args, lines)
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_trainer_for_gpus_says_that_there_is_none(fit, shards, capsys):
    for name in ("trainer/gpu", "trainer/deepspeed"):
        assert fit("run", *on_shards(shards), "--config", name, "--data.workers", "0") == 2, name
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("framefold: error: ") and ("gpu" in error.lower() or "cuda" in error.lower()), name


def test_a_checkpoint_of_another_compressor_is_refused(fit, shards, tmp_path, capsys):
    assert fit("run", *on_shards(shards), "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0") == 0
    last = str(tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt")
    more = ["--trainer.max_steps", "2", "--ckpt_path", last, "--model.params.weight_shape", "nd"]
    capsys.readouterr()
    assert fit("other", *on_shards(shards), *more) == 2
    assert "does not fit" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays_complete(fit, shards, tmp_path, monkeypatch, capsys):
    from framefold.training.checkpoint import write as checkpoint_write

    real, calls = checkpoint_write.torch.save, []

    def full(content, file):
        calls.append(file)
        if len(calls) == 2:
            file.write(b"half of a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(content, file)

    monkeypatch.setattr(checkpoint_write.torch, "save", full)
    args = ["--trainer.max_steps", "6", "--last.every", "2", "--trainer.limit_val_batches", "0"]
    assert fit("run", *on_shards(shards), *args) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("framefold: error: No space left on device") and "last.ckpt" in error
    assert checkpoint(tmp_path / "run")["global_step"] == 2
    assert [path.name for path in (tmp_path / "run").rglob("*ckpt*")].count("last.ckpt") == 1
    assert not list((tmp_path / "run").rglob("*.part"))


def test_too_much_damaged_data_is_one_line(fit, shards, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(shards, tmp_path / "copy")
    (copy / "shard-000001.tar").write_bytes(b"no tar" * 1000)
    assert fit("run", *on_shards(copy), "--trainer.max_steps", "30") == 2
    assert "max_damaged" in capsys.readouterr().err.strip().splitlines()[-1]


def test_ctrl_c_is_one_line(ranks: ForkServer, random_host, shards, tmp_path):
    where = ["--model.host", str(random_host), "--trainer.default_root_dir", str(tmp_path / "run")]
    words = ["fit", *COMMON, *on_shards(shards), *where, "--last.every", "2", "--trainer.max_steps", "100000"]
    run = ranks.start(words, tmp_path / "logs", world=1)
    deadline = time.monotonic() + HANG
    try:
        while not list((tmp_path / "run").rglob("last.ckpt")) and time.monotonic() < deadline:
            assert "error" not in run.text(), run.text()
            time.sleep(0.1)
    finally:  # a failure here must not leave a rank to the tests that follow
        run.kill(0, number=signal.SIGINT)
        statuses = ranks.wait(run, HANG)
    text = run.text()
    assert statuses == [130], text
    assert text.strip().splitlines()[-1].startswith("framefold: error: interrupted") and "Traceback" not in text
    step = checkpoint(tmp_path / "run")["global_step"]  # it can be read
    assert f"fit: Ctrl-C: step {step} is saved in" in text and "--resume auto" in text
    assert not list((tmp_path / "run").rglob("*.part"))
