"""A server that imports everything once and forks the ranks of each run, so that they start without delay.

The ranks find each other by environment variables, as under torchrun. Ranks that are still running after their time
limit are killed with SIGKILL, because SIGTERM does not reach a rank that waits for another one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
PRELOADED = ("framefold.training.fit.lightning_cli", "peft", "deepspeed", "torch.distributed.fsdp", "tensorboard")
PRELOADED += ("deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.checkpoint", "torch.distributed.checkpoint")


@dataclass
class Run:
    """Ranks that were started.

    Attributes:
        pids: process ids, by rank.
        logs: files with the output, by rank.
        started: time of the start, see ``time.monotonic``.
        statuses: exit statuses as of Popen, by rank; None if the rank was killed after its time limit.
    """

    pids: list[int]
    logs: list[Path]
    started: float = field(default_factory=time.monotonic)
    statuses: list[int | None] = field(default_factory=list)

    def text(self, rank: int = 0) -> str:
        """Return the output so far; "" until the rank, which opens its own log, has done so."""
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""

    def kill(self, *ranks: int, number: int = signal.SIGKILL) -> None:
        for rank in ranks:
            os.kill(self.pids[rank], number)


class ForkServer:
    """Client of the server process; the constructor starts it.

    Args:
        modules: modules to import besides those of training.
    """

    def __init__(self, *modules: str) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        env["PYTHONPATH"] = str(ROOT)  # for code that imports tests.support
        self.requests = 0
        command = [sys.executable, __file__, *PRELOADED, *modules]
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def start(self, args: Sequence[str], folder: Path, world: int = 2, code: str = "", **env: str) -> Run:
        """Run the framefold command on several ranks.

        Args:
            args: arguments of the command; empty: run only the code.
            folder: folder for the logs.
            world: number of ranks.
            code: Python code that every rank runs first; the variable ``rank`` is its rank.
            env: environment variables.
        """
        folder.mkdir(parents=True, exist_ok=True)
        logs = [folder / f"rank{rank}.log" for rank in range(world)]
        for log in logs:
            log.touch()
        request = {"args": list(args), "logs": [str(log) for log in logs], "code": code, "env": env}
        request["port"] = free_port()
        return Run(self._ask(request), logs)

    def wait(self, run: Run, timeout: float = 200) -> list[int | None]:
        """Wait for the ranks, and kill those that are running after the timeout; return the exit statuses."""
        run.statuses = self._ask({"wait": run.pids, "timeout": timeout})
        return run.statuses

    def run(self, args: Sequence[str], folder: Path, timeout: float = 200, **more: Any) -> Run:
        """Start the ranks and wait for them, see :meth:`start`."""
        run = self.start(args, folder, **more)
        self.wait(run, timeout)
        return run

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin and self.process.stdout
        self.requests += 1
        print(json.dumps(request | {"number": self.requests}), file=self.process.stdin, flush=True)
        while line := self.process.stdout.readline():
            number, answer = json.loads(line)
            if number == self.requests:  # earlier ones are of tests that were interrupted
                return answer
        raise AssertionError("the fork server has died")

    def close(self) -> None:
        """Kill the server and everything it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def serve(answers: IO[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    for line in sys.stdin:
        request = json.loads(line)
        answer = _wait(request["wait"], request["timeout"]) if "wait" in request else _start(request)
        print(json.dumps([request["number"], answer]), file=answers, flush=True)


def _start(request: dict[str, Any]) -> list[int]:
    pids: list[int] = []
    for rank in range(len(request["logs"])):
        pid = os.fork()
        if not pid:
            _run_rank(rank, request)
        pids.append(pid)
    return pids


def _run_rank(rank: int, request: dict[str, Any]) -> None:
    status = 99
    try:
        log = os.open(request["logs"][rank], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        empty = os.open(os.devnull, os.O_RDONLY)
        for target, stream in ((empty, 0), (log, 1), (log, 2)):
            os.dup2(target, stream)
        if len(request["logs"]) > 1:
            _set_environment(rank, len(request["logs"]), request["port"])
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


def _set_environment(rank: int, world: int, port: int) -> None:
    from lightning_utilities.core.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # read from the environment when Lightning is imported
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
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep everything else that is printed out of the answers
    for name in sys.argv[1:]:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # DeepSpeed runs a full collection for every engine, which takes half a second with all these modules
    serve(answers)
