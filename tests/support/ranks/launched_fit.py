"""A script, not a test: ``framefold`` on the machines of a simulated cluster, as a server that forks every rank.

Usage: launched_fit.py SOCKET. fork_client.py is the command that the launch scripts start; each of its calls runs in a
fork of this process, which has imported the libraries. In the folder $FRAMEFOLD_TEST_RECORDS every rank appends to
rank-N.json when training starts. $FRAMEFOLD_TEST_AT is "RANK STEP SIGNAL": once, in the middle of that step, that rank
gets the signal.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import peft  # noqa: F401 (preloaded)
from lightning_fabric.utilities.rank_zero import _get_rank
from lightning_utilities.core.rank_zero import rank_zero_only

import framefold.training.fit.lightning_cli  # noqa: F401 (preloaded)
from framefold.__main__ import main
from framefold.training.module import CompressorModule


def on_train_start(self: CompressorModule) -> None:
    """Record what Lightning takes this process for."""
    trainer = self.trainer
    facts = {
        "environment": type(trainer._accelerator_connector.cluster_environment).__name__,
        "strategy": type(trainer.strategy).__name__,
        "rank": [trainer.global_rank, trainer.local_rank, trainer.node_rank, trainer.world_size],
        "step": trainer.global_step,
    }
    with open(Path(os.environ["FRAMEFOLD_TEST_RECORDS"], f"rank-{trainer.global_rank}.json"), "a") as file:
        print(json.dumps(facts), file=file)


def on_after_backward(self: CompressorModule) -> None:
    """Send the signal between gradients and optimizer."""
    rank, step, name = os.environ.get("FRAMEFOLD_TEST_AT", "-1 -1 KILL").split()
    mark = Path(os.environ["FRAMEFOLD_TEST_RECORDS"], "hit")
    if (self.global_rank, self.global_step) == (int(rank), int(step)) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), getattr(signal, f"SIG{name}"))


class Server:
    """Forks a process for each connection; its reply is the pid of the process, then the exit status.

    A process whose client is gone is killed. A connection that sends "wait" is answered when no process is left.
    """

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.clients: dict[socket.socket, int] = {}
        self.waiting: list[socket.socket] = []

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.listener, *self.clients], [], [], 0.02)
            for connection in ready:
                if connection is self.listener:
                    self._accept()
                else:  # a client sends nothing more, so it has ended
                    os.kill(self.clients[connection], signal.SIGKILL)
                    os.waitpid(self.clients.pop(connection), 0)
                    connection.close()
            for connection, pid in list(self.clients.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    del self.clients[connection]
                    self._answer(connection, os.waitstatus_to_exitcode(status))
            while self.waiting and not self.clients:
                self._answer(self.waiting.pop(), 0)

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        line = connection.makefile("r").readline()
        if line == "wait\n":
            self.waiting.append(connection)
            return
        pid = os.fork()
        if not pid:
            self.listener.close()
            for other in (*self.clients, connection):
                other.close()
            _run(json.loads(line), streams)
        for stream in streams:
            os.close(stream)
        self.clients[connection] = pid
        connection.sendall(f"{pid}\n".encode())

    def _answer(self, connection: socket.socket, status: int) -> None:
        with suppress(BrokenPipeError):
            connection.sendall(f"{status}\n".encode())
        connection.close()


def _run(request: dict[str, Any], streams: list[int]) -> None:
    status = 99
    try:
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        for number in request["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        rank_zero_only.rank = _get_rank() or 0  # Lightning sets it when it is imported
        sys.argv[:] = ["framefold"]
        status = main(request["args"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    hooks: Any = CompressorModule
    hooks.on_train_start, hooks.on_after_backward = on_train_start, on_after_backward
    Server(sys.argv[1]).serve()
