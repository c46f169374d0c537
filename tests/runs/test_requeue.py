"""SLURM's signal is answered between two steps, and the run that resumes ends like an uninterrupted one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from framefold.__main__ import main
from framefold.training.fit import slurm_requeue
from framefold.training.module import CompressorModule

TASK = {"JOB_ID": "4242", "JOB_NAME": "fit", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}


ACCUMULATED = ["--trainer.limit_val_batches", "0", "--trainer.accumulate_grad_batches", "2"]


def words(host: Path, shards: Path, root: Path) -> list[str]:
    settings = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    settings += ["--model.host", str(host), "--data.shards", str(shards), "--data.batch_size", "2", "--data.seed", "3"]
    settings += ["--trainer.default_root_dir", str(root), "--trainer.enable_progress_bar", "false"]
    settings += ["--data.val_videos", "4", "--data.val_frames", "16", "--data.val_batch_size", "2"]
    return ["fit", *settings, "--trainer.max_steps", "5", "--last.every", "1000"]


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
        handler = signal.getsignal(signal.SIGUSR1)
        status = main([*words(random_host, shards, tmp_path / name), *args])
        assert status or signal.getsignal(signal.SIGUSR1) == handler  # restored
        return status

    yield run
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture(scope="module")
def uninterrupted(random_host, shards, tmp_path_factory) -> dict:
    """The last checkpoint of a run without a signal."""
    root = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["framefold"])
        assert main([*words(random_host, shards, root), *ACCUMULATED]) == 0
    return last(root)


def signalled(monkeypatch: pytest.MonkeyPatch, hook: str, nth: int) -> None:
    """Send SIGUSR1 to the process in the nth call of a hook of the module, counted from 0."""
    real, calls = getattr(CompressorModule, hook), iter(range(1000))

    def hit(self, *args, **kwargs):
        if next(calls) == nth:
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(CompressorModule, hook, hit)


def killed() -> str:
    """Replace scontrol: the job is back in the queue, and SLURM ends its tasks."""
    raise KeyboardInterrupt


def last(folder: Path) -> dict:
    (file,) = folder.rglob("last.ckpt")
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("hook", ["training_step", "on_after_backward"])
def test_a_signal_between_accumulated_batches_saves_the_end_of_their_step(
    fit, uninterrupted, tmp_path, monkeypatch, hook
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(slurm_requeue, "_requeue_job", killed)
        signalled(patched, hook, 4)  # the first of the two batches of step 3
        assert fit("taken", *ACCUMULATED) == 130
    assert last(tmp_path / "taken")["global_step"] == 3
    assert not list((tmp_path / "taken").glob("hpc_ckpt*"))
    assert fit("taken", *ACCUMULATED, "--resume", "auto") == 0
    (resumed,) = (tmp_path / "taken" / "version_1").rglob("last.ckpt")
    state = torch.load(resumed, weights_only=True)
    assert state["global_step"] == 5
    assert all(value.equal(state["state_dict"][name]) for name, value in uninterrupted["state_dict"].items())


def test_during_validation_the_job_is_requeued_at_once_and_keeps_the_previous_checkpoint(
    fit, tmp_path, monkeypatch, capsys
) -> None:
    requeued: list[str] = []
    monkeypatch.setattr(
        slurm_requeue, "_requeue_job", lambda: requeued.append("now") or "job 4242 is back in the queue"
    )
    signalled(monkeypatch, "validation_step", 0)
    args = ["--trainer.val_check_interval", "4", "--last.every", "3"]
    assert fit("run", *args) == 0  # training continues until SLURM ends the job
    err = capsys.readouterr().err
    assert requeued == ["now"] and err.count("back in the queue") == 1 and "in the middle of a validation" in err
    assert last(tmp_path / "run")["global_step"] == 5
    (before,) = (tmp_path / "run").rglob("previous.ckpt")
    assert torch.load(before, weights_only=True)["global_step"] == 3  # not 4


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
def test_scontrol_is_called_and_its_answer_is_printed(tmp_path, monkeypatch, script, variables, call, text) -> None:
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in (TASK | variables).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    if script is not None:
        (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >{tmp_path / "call"}\n{script}\n')
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_requeue, "SCONTROL_TIMEOUT", 1)
    assert text in slurm_requeue._requeue_job()
    assert call is None or (tmp_path / "call").read_text().strip() == call


def test_outside_of_jobs_the_signal_handler_is_not_replaced(fit, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    monkeypatch.setattr(slurm_requeue, "_requeue_job", killed)
    signalled(monkeypatch, "training_step", 1)
    assert fit("run", "--trainer.limit_val_batches", "0") == 0
    assert heard == [signal.SIGUSR1]
