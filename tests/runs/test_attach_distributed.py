"""DDP and DeepSpeed on two processes train attached hosts of every family as one process does, over gloo."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.ranks import attach_distributed as script
from tests.support.hosts.tiny_families import HOSTS

HOSTS_OF_A_KIND = ("glm4v", "llava_onevision", "qwen3_vl", "smolvlm")
LEARNED = [f"llava_onevision/{compressor}" for compressor in script.PARAMS]
EVERYTHING = [f"{host}/{compressor}" for host in HOSTS for compressor in script.COMPRESSORS] + LEARNED
# To ZeRO, pool and st_simdiff are what uniform is: nothing to partition, so that the projector is trained.
ZERO = [f"{host}/fila" for host in HOSTS]
ZERO += [f"{host}/{compressor}" for host in HOSTS_OF_A_KIND for compressor in ("uniform", script.LORA)]
ZERO += [f"qwen3_vl/{compressor}" for compressor in ("pool", "st_simdiff", "top_norm")] + LEARNED


@functools.cache
def reference(case: str) -> tuple[script.Weights, list[float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = script.reference(case)
    torch.set_num_threads(threads)
    return result


def train(strategy: str, folder: Path, cases: list[str]) -> dict[str, tuple[script.Weights, list[float]]]:
    """Run in a process group of its own, killed as a whole (SIGTERM does not reach a rank that waits for another)."""
    log = folder / "log"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, script.__file__, strategy, str(folder), *cases]
    with open(log, "w") as stream:
        run = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            status = run.wait(timeout=300)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if status != 0:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
    assert status == 0, f"status {status}\n{log.read_text()[-3000:]}"
    return torch.load(folder / "weights.pt", weights_only=True)


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("strategy", "cases"),
    [("ddp", EVERYTHING), ("zero_2", ZERO), ("zero_3", ZERO)],
)
def test_two_processes_end_where_one_does(strategy: str, cases: list[str], tmp_path: Path) -> None:
    if strategy != "ddp":
        pytest.importorskip("deepspeed")
    results = train(strategy, tmp_path, cases)
    assert list(results) == cases
    wrong = []
    for case, (weights, losses) in results.items():
        wanted, wanted_losses = reference(case)
        close = functools.partial(torch.allclose, atol=1e-6, rtol=1e-5)
        same = torch.equal if strategy == "ddp" else close
        bad = [name for name, value in wanted.items() if not same(weights[name], value)]
        if bad or wanted.keys() != weights.keys() or losses != pytest.approx(wanted_losses, abs=2e-6):
            wrong.append((case, losses, wanted_losses, bad))
    assert not wrong
