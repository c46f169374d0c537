"""Port at which the ranks meet that Lightning itself starts.

Lightning lets the system choose a port, closes it, and has rank 0 listen on it seconds later. The system takes such
ports for outgoing connections as well, so that in the meantime any connection on the machine may be given the same one.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FIRST = 10_000  # services rarely listen above it
RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # first and last port of outgoing connections
USUAL_FIRST = 32_768  # of outgoing connections, where there is no such file
GIVEN = ("MASTER_PORT", "STANDALONE_PORT")  # variables from which Lightning reads a port


def choose_main_port(trainer: Any) -> None:
    """Set MASTER_PORT to a free port if Lightning would choose one; ranks that it starts inherit the variable."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or environment.creates_processes_externally:
        return  # a single process, ranks of torchrun, MPI or SLURM, or a rank that Lightning has started
    if trainer.num_nodes > 1 or any(name in os.environ for name in GIVEN):
        return
    port = free_port(quiet_ports())
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)


def quiet_ports() -> range:
    """Return the ports below those from which the system takes the ports of outgoing connections; maybe none."""
    try:
        first = int(RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = USUAL_FIRST
    return range(FIRST, first)


def free_port(ports: Sequence[int]) -> int | None:
    """Return one of these ports, at random, on which nothing listens; None if there is none."""
    for port in random.SystemRandom().sample(ports, len(ports)):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    return None
