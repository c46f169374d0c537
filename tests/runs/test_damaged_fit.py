"""Two ranks on damaged and uneven shards: no rank waits for another for ever, and what is wrong is said in one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from framefold.data.synthetic.write_shards import synth

LIMIT = 150  # seconds


def fit(host: Path, shards: Path, out: Path, *args: str) -> tuple[int | None, str, float]:
    """Exit status (None: it had to be killed), what was printed, and seconds."""
    words = ["fit", "--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    words += ["--model.host", str(host), "--data.shards", str(shards), "--trainer.default_root_dir", str(out)]
    words += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.enable_progress_bar", "false", "--data.batch_size", "2", "--last.every", "1000"]
    log, start = out.with_suffix(".log"), time.monotonic()
    with open(log, "w") as stream:
        command = [sys.executable, "-m", "framefold", *words, *args]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            status = run.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    return status, log.read_text(), time.monotonic() - start


@pytest.mark.timeout(LIMIT + 60)
def test_one_uneven_damaged_shard_for_two_ranks_with_two_workers_each(random_host, tmp_path):
    shards = tmp_path / "shards"
    synth(str(shards), videos=7, frames=[16, 20], shard_size=64)
    tar = shards / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    first = data.index(b"ftyp")
    data[first : first + 2000] = bytes(2000)  # a zeroed mp4
    tar.write_bytes(data[: 9 * len(data) // 10])  # and the end is missing
    steps = ["--trainer.max_epochs", "2", "--trainer.max_steps", "-1"]
    steps += ["--data.workers", "2", "--data.max_damaged", "0.9"]
    status, text, _ = fit(random_host, shards, tmp_path / "run", *steps)
    assert status == 0, text[-3000:]
    assert "damaged sample skipped" in text
    saved = torch.load(tmp_path / "run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4  # 4 and 3 samples in batches of two: two steps an epoch on both ranks


@pytest.mark.timeout(LIMIT + 60)
def test_too_much_damage_on_one_rank_ends_all_of_them(random_host, shards, tmp_path):
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    (copy / "shard-000002.tar").write_bytes(b"garbage" * 500)  # 6 of the 22 samples, unevenly shared
    status, text, seconds = fit(random_host, copy, tmp_path / "run", "--trainer.max_epochs", "1", "--data.seed", "1")
    assert status not in (0, None), text[-3000:]
    assert "max_damaged" in text and seconds < LIMIT
    assert "Traceback" not in text, text
