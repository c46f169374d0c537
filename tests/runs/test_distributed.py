"""Two processes: the command starts the second rank itself, ranks share the data, and end with the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framefold.training.checkpoint.read import weights


def fit(out: Path, host: Path, shards: Path, *args: str) -> dict[str, torch.Tensor]:
    """Run in a process group of its own, killed as a whole (SIGTERM does not reach a rank that waits for another)."""
    files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    files += ["--model.host", str(host), "--data.shards", str(shards), "--trainer.default_root_dir", str(out)]
    quiet = [
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.limit_val_batches",
        "0",
        "--model.train_budgets",
        "[8]",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = out.with_suffix(".log")
    with open(log, "w") as stream:
        command = [sys.executable, "-m", "framefold", "fit", *files, *quiet, *args]
        run = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            status = run.wait(timeout=240)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
    assert status == 0, f"status {status}\n{log.read_text()[-3000:]}"
    return weights(out / "version_0" / "checkpoints" / "last.ckpt")


@pytest.mark.timeout(550)
def test_ddp_and_zero_2_end_with_the_same_weights(random_host, shards, tmp_path):
    steps = [
        "--trainer.max_steps",
        "4",
        "--trainer.gradient_clip_val",
        "0.5",
        "--trainer.accumulate_grad_batches",
        "2",
        "--data.batch_size",
        "1",
    ]
    two = ["--trainer.devices", "2", *steps]
    ddp = fit(tmp_path / "ddp", random_host, shards, *two, "--trainer.strategy", "ddp")
    zero = fit(tmp_path / "zero", random_host, shards, *two, "--trainer.strategy", "deepspeed_cpu_stage_2")
    for name, value in ddp.items():
        torch.testing.assert_close(zero[name], value, atol=1e-6, rtol=1e-5)
        assert bool((value != 0).any())
    states = list((tmp_path / "zero").rglob("mp_rank_00_model_states.pt"))
    assert len(states) == 1 and states[0].stat().st_size < 60_000  # the frozen host is left out


@pytest.mark.timeout(550)
def test_lora_of_ddp_and_zero_2_is_the_same_and_all_that_is_saved_of_the_host(random_host, shards, tmp_path):
    args = ["--model.lora.r", "2", "--model.lora.lr", "0.01", "--model.lora.dropout", "0"]
    args += ["--model.losses", "{kl: 1.0}"]  # the teacher is the host without LoRA, in the middle of a step
    args += ["--model.lora.targets", "[v_proj]", "--trainer.max_steps", "3", "--data.batch_size", "1"]
    args += ["--trainer.devices", "2", "--trainer.strategy"]
    ddp = fit(tmp_path / "ddp", random_host, shards, *args, "ddp")
    zero = fit(tmp_path / "zero", random_host, shards, *args, "deepspeed_cpu_stage_2")
    assert ddp.keys() == zero.keys() and {name.partition(".")[0] for name in ddp} == {"compressor", "lora"}
    for name, value in ddp.items():
        torch.testing.assert_close(zero[name], value, atol=1e-6, rtol=1e-5)
        assert bool((value != 0).any())
    (states,) = (tmp_path / "zero").rglob("mp_rank_00_model_states.pt")
    assert states.stat().st_size < 40_000  # the frozen host, of 70 kB, is left out
