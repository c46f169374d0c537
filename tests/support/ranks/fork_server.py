"""Ranks that start in no time: a server imports everything once and forks the processes of each run.

Ranks find each other as under torchrun, by environment variables. They run in a process group of their own, and what is
left of one after its time is killed as a whole (SIGTERM does not reach a rank that waits for another).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PRELOADED = ("framefold.training.fit.lightning_cli", "peft")


@dataclass
class Run:
    """Ranks that were started; statuses are as of Popen, None where a rank had to be killed after its time."""

    pids: list[int]
    logs: list[Path]
    started: float = field(default_factory=time.monotonic)
    statuses: list[int | None] = field(default_factory=list)

    def text(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()

    def kill(self, *ranks: int) -> None:
        for rank in ranks:
            os.kill(self.pids[rank], signal.SIGKILL)


class Ranks:
    """The server, seen from the test."""

    def __init__(self, *modules: str) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        env["PYTHONPATH"] = str(ROOT)  # for code that imports tests.support
        command = [sys.executable, __file__, *PRELOADED, *modules]
        self.server = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, args: Sequence[str], folder: Path, world: int = 2, code: str = "", **env: str) -> Run:
        """Run the framefold command on some ranks.

        Args:
            folder: for the logs. code: Python that every rank runs before; the rank is in ``rank``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        logs = [folder / f"rank{rank}.log" for rank in range(world)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        request = {"args": list(args), "logs": [str(log) for log in logs], "code": code, "env": env, "port": port}
        return Run(self._ask(request), logs)

    def wait(self, run: Run, timeout: float = 100) -> list[int | None]:
        """Statuses of the ranks; what is still there after the time is killed."""
        run.statuses = self._ask({"wait": run.pids, "timeout": timeout})
        return run.statuses

    def run(self, args: Sequence[str], folder: Path, timeout: float = 100, **more: Any) -> Run:
        """Start, and wait for the end."""
        run = self.start(args, folder, **more)
        self.wait(run, timeout)
        return run

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self.server.stdin and self.server.stdout
        print(json.dumps(request), file=self.server.stdin, flush=True)
        answer = self.server.stdout.readline()
        assert answer, "the server of the ranks has died"
        return json.loads(answer)

    def close(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer = _wait(request["wait"], request["timeout"]) if "wait" in request else _start(request)
        print(json.dumps(answer), flush=True)


def _start(request: dict[str, Any]) -> list[int]:
    pids: list[int] = []
    for rank in range(len(request["logs"])):
        pid = os.fork()
        if not pid:
            _rank(rank, request)
        pids.append(pid)
    return pids


def _rank(rank: int, request: dict[str, Any]) -> None:
    status = 99
    try:
        log = os.open(request["logs"][rank], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, stream in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(target, stream)
        if len(request["logs"]) > 1:
            _environment(rank, len(request["logs"]), request["port"])
        os.environ.update(request["env"])
        sys.argv[:] = ["framefold"]
        exec(request["code"], {"rank": rank})
        from framefold.__main__ import main

        status = main(request["args"]) if request["args"] else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _environment(rank: int, world: int, port: int) -> None:
    from lightning_utilities.core.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # it looks when it is imported
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="tests")


def _wait(pids: list[int], timeout: float) -> list[int | None]:
    statuses: dict[int, int | None] = {}
    end = time.monotonic() + timeout
    while len(statuses) < len(pids):
        for pid in set(pids) - statuses.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                statuses[pid] = None
        time.sleep(0.02)
    return [statuses[pid] for pid in pids]


if __name__ == "__main__":
    import importlib

    for name in sys.argv[1:]:
        importlib.import_module(name)
    serve()
