"""A script, not a test: ``framefold`` of a machine in a cluster, which tells who it is and can be hit by misfortune.

Usage: launched_fit.py fit ... In the folder $FRAMEFOLD_TEST_TOLD every rank leaves rank-N.json when training starts.
$FRAMEFOLD_TEST_AT is "RANK STEP SIGNAL": once, in the middle of that step, that rank gets the signal.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from framefold.__main__ import main
from framefold.training.module import CompressorModule

TOLD = Path(os.environ["FRAMEFOLD_TEST_TOLD"])
RANK, STEP, SIGNAL = os.environ.get("FRAMEFOLD_TEST_AT", "-1 -1 KILL").split()


def on_train_start(self: CompressorModule) -> None:
    """Tell what Lightning takes this process for."""
    trainer = self.trainer
    facts = {
        "environment": type(trainer._accelerator_connector.cluster_environment).__name__,
        "strategy": type(trainer.strategy).__name__,
        "rank": [trainer.global_rank, trainer.local_rank, trainer.node_rank, trainer.world_size],
        "step": trainer.global_step,
        "pid": os.getpid(),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
    }
    with open(TOLD / f"rank-{trainer.global_rank}.json", "a") as file:
        print(json.dumps(facts), file=file)


def on_after_backward(self: CompressorModule) -> None:
    """Between gradients and optimizer."""
    mark = TOLD / "hit"
    if (self.global_rank, self.global_step) == (int(RANK), int(STEP)) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), getattr(signal, f"SIG{SIGNAL}"))


if __name__ == "__main__":
    hooks: Any = CompressorModule
    hooks.on_train_start, hooks.on_after_backward = on_train_start, on_after_backward
    sys.exit(main(sys.argv[1:]))
