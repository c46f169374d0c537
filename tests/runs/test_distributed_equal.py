"""A global batch trains the same weights, whatever it is dealt to: one process, or two with DDP, FSDP2 or ZeRO.

20 steps with accumulated, clipped gradients, over ends of epochs at which the accumulated batches are not complete; the
losses are means over questions, of which the ranks have different numbers, and qtsplus draws noise.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT

SCRIPT = ROOT / "tests" / "support" / "ranks" / "distributed_equal.py"
COMPRESSORS = ("storm", "qtsplus", "fila")
STRATEGIES = ("ddp", "deepspeed_cpu_stage_1", "deepspeed_cpu_stage_2", "deepspeed_cpu_stage_3", "fsdp2")
LIMIT = 420  # seconds; about 60 on two calm cores


def start(world: int, rank: int, port: int, log: Path, *args: str) -> subprocess.Popen:
    where = {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    env = {**os.environ, **where, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with open(log, "w") as stream:
        command = [sys.executable, str(SCRIPT), *args]
        return subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)


@pytest.fixture(scope="module")
def trained(random_host, shards, tmp_path_factory) -> Path:
    """Folder of the trained weights of every compressor and strategy."""
    out = tmp_path_factory.mktemp("equal")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = [str(random_host), str(shards), str(out)]
    runs = {"one": start(1, 0, port, out / "one.log", *common, ",".join(COMPRESSORS), "auto")}
    for rank in (0, 1):
        log = out / f"two-{rank}.log"
        runs[f"two-{rank}"] = start(2, rank, port, log, *common, ",".join(COMPRESSORS), ",".join(STRATEGIES))
    try:
        for name, run in runs.items():
            status = run.wait(timeout=LIMIT)
            assert status == 0, f"{name}: status {status}\n{(out / f'{name}.log').read_text()[-3000:]}"
    finally:
        for run in runs.values():
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
    return out


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_weights_as_a_single_process(trained, compressor, strategy):
    alone = torch.load(trained / f"{compressor}-auto.pt", weights_only=True)
    together = torch.load(trained / f"{compressor}-{strategy}.pt", weights_only=True)
    assert alone.keys() == together.keys() and len(alone) >= 2
    for name, value in alone.items():
        torch.testing.assert_close(
            together[name], value, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    before = torch.load(trained / f"{compressor}-auto-start.pt", weights_only=True)
    moved = max(float((alone[name] - before[name]).abs().max()) for name in alone)
    assert moved > 0.01  # a thousand times the tolerance
