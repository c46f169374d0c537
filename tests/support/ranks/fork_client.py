"""A script, not a test: a command that runs in a fork of a preloaded server (launched_fit.py) as if in this process.

Standard streams, environment, working folder and ignored signals are those of this process; signals are forwarded to
the fork, whose exit status becomes that of this process. The server kills the fork when this process dies.
Imports little, because its start must take no time. The environment names the server's socket.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def main() -> None:
    """Run the command and end like it."""
    request = {
        "args": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "ignored": [number for number in FORWARDED if signal.getsignal(number) is signal.SIG_IGN],
    }
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["FRAMEFOLD_TEST_SERVER"])
    socket.send_fds(connection, [b"!"], [0, 1, 2])
    answers = connection.makefile("rw")
    print(json.dumps(request), file=answers, flush=True)
    pid = int(answers.readline())
    for number in FORWARDED:
        if number not in request["ignored"]:
            signal.signal(number, lambda received, _: os.kill(pid, received))
    status = int(answers.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
