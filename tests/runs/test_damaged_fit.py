"""Two ranks on damaged and uneven shards: no rank waits for another forever, and the error is one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framefold.data.synthetic.write_shards import synth
from tests.support.limits import HANG
from tests.support.own_shards import write_own_shards
from tests.support.ranks.fork_server import ForkServer


def words(host: Path, shards: Path, out: Path) -> list[str]:
    settings = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    settings += ["--model.host", str(host), "--data.shards", str(shards), "--trainer.default_root_dir", str(out)]
    settings += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.limit_val_batches", "0"]
    return ["fit", *settings, "--trainer.enable_progress_bar", "false", "--data.batch_size", "2", "--last.every", "99"]


@pytest.mark.timeout(HANG + 100)
def test_two_ranks_with_two_workers_each_train_on_one_uneven_damaged_shard(
    ranks: ForkServer, random_host: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    synth(str(shards), videos=7, frames=[16, 20], shard_size=64)
    tar = shards / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    first = data.index(b"ftyp")
    data[first : first + 2000] = bytes(2000)  # a zeroed mp4
    tar.write_bytes(data[: 9 * len(data) // 10])  # and the end is missing
    steps = ["--trainer.max_epochs", "2", "--trainer.max_steps", "-1"]
    steps += ["--data.workers", "2", "--data.max_damaged", "0.9"]
    run = ranks.run([*words(random_host, shards, tmp_path / "run"), *steps], tmp_path / "logs", HANG)
    assert run.statuses == [0, 0], run.text()[-3000:]
    assert "damaged sample skipped" in run.text() + run.text(1)
    saved = torch.load(tmp_path / "run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4  # 4 and 3 samples in batches of two: two steps an epoch on both ranks


@pytest.mark.timeout(HANG + 100)
def test_two_ranks_pass_over_samples_that_only_the_host_refuses(
    ranks: ForkServer, random_host: Path, tmp_path: Path
) -> None:
    """One rank meets batches without any sample that the host accepts, and still takes part in every step."""
    refused = {number: {"text": "a <video> b"} for number in (0, 1, 2, 9)}
    shards = write_own_shards(tmp_path / "shards", 12, refused, per_shard=12)
    steps = ["--data.batch_size", "1", "--data.max_damaged", "0.7"]
    steps += ["--trainer.max_epochs", "2", "--trainer.max_steps", "-1"]
    run = ranks.run([*words(random_host, shards, tmp_path / "run"), *steps], tmp_path / "logs", HANG)
    assert run.statuses == [0, 0], run.text()[-3000:]
    assert "damaged sample skipped: own-" in run.text() + run.text(1)
    saved = torch.load(tmp_path / "run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 12


@pytest.mark.timeout(HANG + 100)
def test_too_much_damage_on_one_rank_ends_both(random_host: Path, shards: Path, tmp_path: Path) -> None:
    """The command itself starts rank 1, so that its end must also end that process."""
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    (copy / "shard-000002.tar").write_bytes(b"garbage" * 500)  # 6 of the 22 samples, unevenly shared
    log = tmp_path / "log"
    with open(log, "w") as stream:
        command = [sys.executable, "-m", "framefold", *words(random_host, copy, tmp_path / "run")]
        command += ["--trainer.max_epochs", "1", "--data.seed", "1"]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            status = run.wait(timeout=HANG)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    text = log.read_text()
    assert status not in (0, None), text[-3000:]
    assert "max_damaged" in text and "Traceback" not in text, text
