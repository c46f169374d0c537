"""A simulated cluster of two machines on which the scripts of ``framefold launch`` run.

mpirun, srun and scontrol are simulated and treat their tasks like the real ones; torchrun is the real one. The command
``framefold`` is fork_client.py, which runs in forks of one preloaded process (launched_fit.py).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from framefold.__main__ import main
from tests.support.paths import ROOT

SERVER, CLIENT = (Path(__file__).with_name(name) for name in ("launched_fit.py", "fork_client.py"))
STEPS = 12
COMMANDS = {
    "framefold": f'exec {sys.executable} -I -S {CLIENT} "$@"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    # Open MPI: ranks fill one machine after another; the environment is passed on
    "mpirun": """
        [ "$1" != --version ] || { echo "mpirun (Open MPI) 5.0.8"; exit; }
        echo "$*" >"$FRAMEFOLD_TEST_RECORDS/mpirun"
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
        echo "${tasks[@]}" >"$FRAMEFOLD_TEST_RECORDS/tasks"
        for task in "${tasks[@]}"; do wait "$task" || { kill -9 "${tasks[@]}"; exit 1; }; done
    """,
    # The job is in the queue again and its tasks are killed, among them the caller of scontrol.
    "scontrol": """
        echo "$@" >>"$FRAMEFOLD_TEST_RECORDS/scontrol"
        kill -9 $(cat "$FRAMEFOLD_TEST_RECORDS/tasks")
        while kill -0 $PPID; do sleep 0.05; done
    """,
}


class Cluster:
    """Two machines with one process each, and a folder that both can access."""

    def __init__(self, folder: Path, host: Path, shards: Path) -> None:
        self.folder, self.host, self.shards = folder, host, shards
        self.socket = str(folder / "server")
        (folder / "bin").mkdir(parents=True)
        for name, text in COMMANDS.items():
            command = folder / "bin" / name
            command.write_text(f"#!/usr/bin/env bash\n{text}\n")
            command.chmod(0o755)
        self.running: list[subprocess.Popen[bytes]] = []
        words = [sys.executable, str(SERVER), self.socket]
        self.server = subprocess.Popen(words, env=self._environment(), cwd=folder, start_new_session=True)
        while not Path(self.socket).exists():
            assert self.server.poll() is None, "the server has died"
            time.sleep(0.05)

    def close(self) -> None:
        """End all processes."""
        self.kill()
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()

    def arguments(self, *more: str) -> list[str]:
        """Return the arguments of framefold fit, after those of the script."""
        files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
        data = ["--data.shards", str(self.shards), "--data.batch_size", "1", "--data.workers", "0", "--data.seed", "3"]
        quick = ["--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
        model = ["--model.host", str(self.host), "--model.train_budgets", "[8]", "--model.lr", "0.05"]
        return [*files, *data, *quick, *model, "--data.lanes", "2", "--trainer.max_steps", str(STEPS), *more]

    def _environment(self, **variables: str) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "PMI_"))}
        env |= {"PATH": f"{self.folder / 'bin'}:{env['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return {**env, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **variables}

    def start(self, template: str, *args: str, out: str, **variables: str) -> None:
        """Write a launch script and run it in a process group of its own, like the shell of a machine.

        Args:
            template: name of the script.
            args: further arguments of framefold fit.
            out: folder of the run, in that of the cluster.
            variables: additions to the environment.
        """
        script = self.folder / f"{template}.script"
        if not script.exists():
            assert main(["launch", template, "--out", str(script)]) == 0
        records = self.folder / out / "records"
        records.mkdir(parents=True, exist_ok=True)
        env = self._environment(
            FRAMEFOLD_TEST_RECORDS=str(records),
            FRAMEFOLD_TEST_SERVER=self.socket,
            OUT=str(self.folder / out),
            **variables,
        )
        words = ["bash", str(script), *self.arguments(*args)]
        with open(self.folder / f"{out}.log", "ab") as log:
            self.running.append(
                subprocess.Popen(words, env=env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
            )

    def wait(self, timeout: float = 240) -> list[int | None]:
        """Return the exit status of each script; None if it did not end in time and was killed."""
        statuses: list[int | None] = []
        for process in self.running:
            try:
                statuses.append(process.wait(timeout))
            except subprocess.TimeoutExpired:
                statuses.append(None)
        self.kill()
        return statuses

    def kill(self) -> None:
        """Kill everything that was started; torchrun runs its processes in groups of their own."""
        for process in self.running:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.running.clear()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(self.socket)
            socket.send_fds(connection, [b"!"], [])
            connection.sendall(b"wait\n")
            assert connection.recv(16) == b"0\n"  # all forks have ended

    def log(self, out: str) -> str:
        """Return the end of what the processes of a run have printed."""
        return (self.folder / f"{out}.log").read_text()[-4000:]

    def records(self, out: str, rank: int) -> list[dict]:
        """Return what a rank has recorded at each of its starts."""
        text = (self.folder / out / "records" / f"rank-{rank}.json").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def last(self, out: str) -> dict:
        """Return the newest single-file checkpoint of a run."""
        files = (self.folder / out).rglob("last.ckpt")
        return torch.load(max(files, key=lambda file: file.stat().st_mtime), weights_only=True)
