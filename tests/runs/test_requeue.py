"""SLURM's signal is answered between two steps: what it saves goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from framefold.__main__ import main
from framefold.training.fit import slurm_requeue as requeue
from framefold.training.module import CompressorModule

TASK = {"JOB_ID": "4242", "JOB_NAME": "fit", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}


@pytest.fixture
def fit(random_host, shards, tmp_path, monkeypatch):
    """Call framefold fit in this process, as the only task of a job; returns the exit status."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in TASK.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(sys, "argv", ["framefold"])
    before = signal.getsignal(signal.SIGUSR1)

    def run(name: str, *args: str) -> int:
        files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
        where = ["--model.host", str(random_host), "--data.shards", str(shards), "--data.batch_size", "2"]
        where += ["--trainer.default_root_dir", str(tmp_path / name), "--trainer.enable_progress_bar", "false"]
        small = ["--data.val_videos", "4", "--data.val_frames", "16", "--data.val_batch_size", "2", "--data.seed", "3"]
        listening = signal.getsignal(signal.SIGUSR1)
        status = main(["fit", *files, *where, *small, "--trainer.max_steps", "5", "--last.every", "1000", *args])
        assert status or signal.getsignal(signal.SIGUSR1) == listening  # ours is gone
        return status

    yield run
    signal.signal(signal.SIGUSR1, before)


def signalled(monkeypatch: pytest.MonkeyPatch, hook: str, nth: int) -> None:
    """The process gets SIGUSR1 in the nth call of a hook of the module, counted from 0."""
    real, calls = getattr(CompressorModule, hook), iter(range(1000))

    def hit(self, *args, **kwargs):
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(CompressorModule, hook, hit)


def killed() -> str:
    """In place of scontrol: the job is in the queue, and its tasks are ended."""
    raise KeyboardInterrupt


def last(folder: Path) -> dict:
    (file,) = folder.rglob("last.ckpt")
    return torch.load(file, weights_only=True)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("hook", ["training_step", "on_after_backward"])
def test_what_is_saved_in_the_middle_of_accumulated_batches_is_the_end_of_their_step(
    fit, tmp_path, monkeypatch, hook
) -> None:
    args = ["--trainer.limit_val_batches", "0", "--trainer.accumulate_grad_batches", "2"]
    assert fit("whole", *args) == 0
    with monkeypatch.context() as patched:
        patched.setattr(requeue, "_put_back", killed)
        signalled(patched, hook, 4)  # the first of the two batches of step 3
        assert fit("taken", *args) == 130
    assert last(tmp_path / "taken")["global_step"] == 3
    assert not list((tmp_path / "taken").glob("hpc_ckpt*"))
    assert fit("taken", *args, "--resume", "auto") == 0
    whole, ours = last(tmp_path / "whole"), [*(tmp_path / "taken").rglob("last.ckpt")]
    state = torch.load(max(ours, key=lambda file: file.stat().st_mtime), weights_only=True)
    assert state["global_step"] == 5
    assert all(value.equal(state["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_in_a_validation_the_job_goes_back_at_once_and_keeps_the_checkpoint_before(
    fit, tmp_path, monkeypatch, capsys
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(requeue, "_put_back", lambda: asked.append("now") or "job 4242 is back in the queue")
    signalled(monkeypatch, "validation_step", 0)
    args = ["--trainer.val_check_interval", "4", "--last.every", "3"]
    assert fit("run", *args) == 0  # SLURM takes its time: training goes on
    err = capsys.readouterr().err
    assert asked == ["now"] and err.count("back in the queue") == 1 and "in the middle of a validation" in err
    assert last(tmp_path / "run")["global_step"] == 5
    (before,) = (tmp_path / "run").rglob("previous.ckpt")
    assert torch.load(before, weights_only=True)["global_step"] == 3  # none of step 4


@pytest.mark.parametrize(
    ("script", "variables", "call", "text"),
    [
        ("exit 0", {}, "requeue 4242", "job 4242 is back in the queue"),
        ("exit 0", {"ARRAY_JOB_ID": "40", "ARRAY_TASK_ID": "7"}, "requeue 40_7", "job 40_7 is back in the queue"),
        ("echo 'Requested operation is not' >&2; exit 1", {}, "requeue 4242", "cannot be put back into the queue: Req"),
        (None, {}, None, "cannot be put back into the queue: [Errno 2]"),
        ("exec sleep 60", {}, "requeue 4242", "timed out"),
    ],
)
def test_scontrol_is_asked_and_what_it_answers_is_told(tmp_path, monkeypatch, script, variables, call, text) -> None:
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in (TASK | variables).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    if script is not None:
        (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >{tmp_path / "call"}\n{script}\n')
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(requeue, "PATIENCE", 1)
    assert text in requeue._put_back()
    assert call is None or (tmp_path / "call").read_text().strip() == call


def test_outside_of_jobs_the_signal_is_left_alone(fit, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    monkeypatch.setattr(requeue, "_put_back", killed)
    signalled(monkeypatch, "training_step", 1)
    assert fit("run", "--trainer.limit_val_batches", "0") == 0
    assert heard == [signal.SIGUSR1]
