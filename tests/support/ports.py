"""Ports for processes that listen on this machine."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 15_000, 32_000  # below the range from which the system takes ports of outgoing connections


def free_port() -> int:
    """Return a port that is free now, and that no outgoing connection of another process will be given."""
    choose = random.SystemRandom().randrange
    while True:
        port = choose(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
