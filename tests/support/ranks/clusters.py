"""Clusters of two machines, as far as the scripts of ``framefold launch`` see them, on this one; no tests.

mpirun, srun and scontrol are imitations that do to their tasks what the real ones do; torchrun is the real one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from framefold.__main__ import main

SCRIPT = Path(__file__).with_name("launched_fit.py")
STEPS = 12
COMMANDS = {
    "framefold": f'exec {sys.executable} {SCRIPT} "$@"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    # Open MPI: ranks fill one machine after the other; the environment is handed on
    "mpirun": """
        [ "$1" != --version ] || { echo "mpirun (Open MPI) 5.0.8"; exit; }
        echo "$*" >"$FRAMEFOLD_TEST_TOLD/mpirun"
        [ "$1 $3 $4" = "-np --map-by ppr:1:node" ] || exit 3
        world=$2; shift 4
        for rank in $(seq 0 $((world - 1))); do
          OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=$world OMPI_COMM_WORLD_LOCAL_RANK=0 "$@" & tasks+=($!)
        done
        for task in "${tasks[@]}"; do wait "$task" || { kill -9 "${tasks[@]}"; exit 1; }; done
    """,
    "srun": """
        [ "$1" = --kill-on-bad-exit=1 ] || exit 3
        shift
        for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
          SLURM_PROCID=$rank SLURM_LOCALID=0 SLURM_NODEID=$rank "$@" & tasks+=($!)
        done
        echo "${tasks[@]}" >"$FRAMEFOLD_TEST_TOLD/tasks"
        for task in "${tasks[@]}"; do wait "$task" || { kill -9 "${tasks[@]}"; exit 1; }; done
    """,
    # the job is in the queue again, and its tasks are no more
    "scontrol": """
        echo "$@" >>"$FRAMEFOLD_TEST_TOLD/scontrol"
        kill -9 $(cat "$FRAMEFOLD_TEST_TOLD/tasks")
    """,
}


class Cluster:
    """Two machines with a process each, and a folder that both see."""

    def __init__(self, folder: Path, host: Path, shards: Path) -> None:
        self.folder, self.host, self.shards = folder, host, shards
        (folder / "bin").mkdir(parents=True)
        for name, text in COMMANDS.items():
            command = folder / "bin" / name
            command.write_text(f"#!/usr/bin/env bash\n{text}\n")
            command.chmod(0o755)
        self.running: list[subprocess.Popen[bytes]] = []

    def arguments(self, *more: str) -> list[str]:
        """Of framefold fit, after those of the script."""
        files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
        data = ["--data.shards", str(self.shards), "--data.batch_size", "1", "--data.workers", "0", "--data.seed", "3"]
        quick = ["--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
        model = ["--model.host", str(self.host), "--model.train_budgets", "[8]", "--model.lr", "0.05"]
        return [*files, *data, *quick, *model, "--data.lanes", "2", "--trainer.max_steps", str(STEPS), *more]

    def start(self, template: str, *args: str, out: str, before: tuple[str, ...] = (), **variables: str) -> None:
        """Write a script out of the package and run it: in a process group of its own, as a machine's shell would."""
        script = self.folder / f"{template}.script"
        if not script.exists():
            assert main(["launch", template, "--out", str(script)]) == 0
        told = self.folder / out / "told"
        told.mkdir(parents=True, exist_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "PMI_"))}
        env |= {"PATH": f"{self.folder / 'bin'}:{env['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        env |= {
            "FRAMEFOLD_TEST_TOLD": str(told),
            "OUT": str(self.folder / out),
            "CUDA_VISIBLE_DEVICES": "",
            **variables,
        }
        log = open(self.folder / f"{out}.log", "ab")  # noqa: SIM115 (the process has it)
        words = [*before, "bash", str(script), *self.arguments(*args)]
        self.running.append(
            subprocess.Popen(words, env=env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        )
        log.close()

    def wait(self, timeout: float = 240) -> list[int | None]:
        """Exit status of what was started; None: it did not end in time and was killed."""
        found: list[int | None] = []
        for process in self.running:
            try:
                found.append(process.wait(timeout))
            except subprocess.TimeoutExpired:
                found.append(None)
        self.kill()
        return found

    def kill(self) -> None:
        """Everything that was started: torchrun gives its processes groups of their own."""
        for process in self.running:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.running.clear()

    def log(self, out: str) -> str:
        """What the processes of a run have printed, the end of it."""
        return (self.folder / f"{out}.log").read_text()[-4000:]

    def told(self, out: str, rank: int) -> list[dict]:
        """What a rank has said of itself at each start."""
        return [
            json.loads(line) for line in (self.folder / out / "told" / f"rank-{rank}.json").read_text().splitlines()
        ]

    def last(self, out: str) -> dict:
        """The newest checkpoint of a run in a file."""
        places = (self.folder / out).rglob("last.ckpt")
        return torch.load(max(places, key=lambda place: place.stat().st_mtime), weights_only=True)


def free_port() -> str:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
