"""Training on two ranks: the command starts the second rank itself, and ZeRO-2 trains the weights of DDP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from framefold.training.checkpoint.read import trained_weights
from tests.support.limits import HANG
from tests.support.ranks.fork_server import ForkServer
from tests.support.weights import relative_differences

SETTINGS = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
SETTINGS += ["--data.batch_size", "1", "--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"]
SETTINGS += ["--model.lora.r", "2", "--model.lora.lr", "0.01", "--model.lora.dropout", "0", "--trainer.max_steps", "4"]
SETTINGS += ["--model.losses", "{kl: 1.0}"]  # the teacher is the host without LoRA, in the middle of a step
SETTINGS += ["--trainer.gradient_clip_val", "0.5", "--trainer.accumulate_grad_batches", "2", "--trainer.devices", "2"]
SAVE_START = """
from framefold.training.module import CompressorModule as M
M.on_train_start = lambda self: self.trainer.save_checkpoint({!r})
"""


@pytest.mark.timeout(2 * HANG + 60)
def test_the_command_starts_both_ranks_and_zero_2_trains_and_saves_the_weights_of_ddp(
    ranks: ForkServer, random_host: Path, shards: Path, tmp_path: Path
) -> None:
    words = ["fit", *SETTINGS, "--model.host", str(random_host), "--data.shards", str(shards)]
    options = ["--trainer.default_root_dir", str(tmp_path / "zero"), "--trainer.strategy", "deepspeed_cpu_stage_2"]
    log = tmp_path / "zero.log"
    with open(log, "w") as stream:
        command = [sys.executable, "-m", "framefold", *words, *options]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        zero = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            options = ["--trainer.default_root_dir", str(tmp_path / "ddp"), "--trainer.strategy", "ddp"]
            code = SAVE_START.format(str(tmp_path / "start.ckpt"))
            ddp = ranks.run([*words, *options], tmp_path / "logs", HANG, code=code)
            status = zero.wait(timeout=HANG)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if zero.poll() is None:  # the group, because SIGTERM does not reach a rank that waits for the other one
                os.killpg(zero.pid, signal.SIGKILL)
                zero.wait()
    assert status == 0, f"status {status}\n{log.read_text()[-3000:]}"
    assert ddp.statuses == [0, 0], ddp.text()[-3000:]
    start = trained_weights(tmp_path / "start.ckpt")
    expected, found = (trained_weights(tmp_path / name / "version_0/checkpoints/last.ckpt") for name in ("ddp", "zero"))
    assert {name.partition(".")[0] for name in expected} == {"compressor", "lora"}
    differences = relative_differences(start, expected, found)
    assert max(differences.values()) < 1e-4, differences
    (states,) = (tmp_path / "zero").rglob("mp_rank_00_model_states.pt")
    assert states.stat().st_size < 40_000  # without the frozen host, which has 70 kB
