"""Record the batches of a rank, and send SIGKILL at a chosen moment.

Ranks of :mod:`.fork_server` call :func:`arm` before the command. Records are written without a buffer, so that those
from before a kill exist.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}  # audit events
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Armed:
    """A rank, and the kill that it carries out, if any.

    Args:
        rank: its number.
        folder: folder for records: ``pid.N``, and for rank N a line for each batch in ``batches.N`` and for each
            checkpoint in ``saves.N``.
        trigger: rank that kills.
        victims: ranks that are killed; they may include the trigger.
        step: first step at which the kill may happen.
        seconds: delay of the kill after the start of a step; None: kill while a checkpoint is written.
        passed: number of checkpoints that this process writes before that one.
        change: number of the change of the disk before which the kill happens, counted over these checkpoints; if the
            change is a call of torch.save, half of the file is written first.
    """

    def __init__(
        self,
        rank: int,
        folder: str,
        trigger: int = -1,
        victims: tuple[int, ...] = (),
        step: int = 0,
        seconds: float | None = None,
        passed: int = 0,
        change: int = 0,
    ) -> None:
        self.rank, self.folder, self.armed = rank, Path(folder), trigger == rank
        self.victims, self.step, self.seconds, self.passed, self.change = victims, step, seconds, passed, change
        self.saving, self.changes = False, 0
        self.timer: threading.Timer | None = None
        (self.folder / f"pid.{rank}").write_text(str(os.getpid()))

    def record(self, kind: str, *values: Any) -> None:
        file = os.open(self.folder / f"{kind}.{self.rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, (json.dumps(values) + "\n").encode())
        os.close(file)

    def kill(self) -> None:
        """Kill all victims; this rank is the last."""
        armed, self.armed = self.armed, False
        for victim in sorted(self.victims, key=lambda rank: rank == self.rank) if armed else ():
            os.kill(int((self.folder / f"pid.{victim}").read_text()), signal.SIGKILL)

    def at_step(self, step: int) -> None:
        """Start the timer before a step, or kill at once if the timer has not fired within two steps."""
        if not self.armed or self.seconds is None or step < self.step:
            return
        if step >= self.step + 2:
            self.kill()
        elif self.timer is None:
            self.timer = threading.Timer(self.seconds, self.kill)
            self.timer.daemon = True
            self.timer.start()

    def at_change(self) -> bool:
        """Count a change of the disk; return whether the kill happens before it."""
        self.changes += self.saving
        return self.saving and self.armed and self.seconds is None and self.changes == self.change

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        if self.saving and (event in CHANGES or (event == "open" and args[2] & WRITING)) and self.at_change():
            self.kill()


def arm(rank: int, folder: str, **moment: Any) -> None:
    """Prepare a rank before the command runs."""
    from framefold.training.checkpoint import callbacks
    from framefold.training.module import CompressorModule

    self = Armed(rank, folder, **moment)
    training_step, save_atomically = CompressorModule.training_step, callbacks.save_atomically
    save, fsync = torch.save, os.fsync

    def recorded_step(module: CompressorModule, batch: Any, batch_idx: int) -> Any:
        keys = [sample.key for sample in batch.samples]
        self.record("batches", module.current_epoch, batch_idx, module.global_step, keys)
        self.at_step(module.global_step)
        return training_step(module, batch, batch_idx)

    def counted_save(trainer: Any, *args: Any, **more: Any) -> None:
        before, self.saving = self.changes, trainer.global_step >= self.step and self.passed < 1
        save_atomically(trainer, *args, **more)
        self.saving, self.passed = False, self.passed - 1
        self.record("saves", trainer.global_step, self.changes - before)

    def half_save(content: Any, file: Any, **more: Any) -> None:
        if self.at_change():
            buffer = io.BytesIO()
            save(content, buffer, **more)
            half = buffer.getvalue()[: buffer.tell() // 2]
            if isinstance(file, (str, Path)):
                Path(file).write_bytes(half)
            else:
                file.write(half)
                file.flush()
            self.kill()
            if not isinstance(file, (str, Path)):  # the victim was another rank
                file.seek(0)
        save(content, file, **more)

    def counted_fsync(handle: int) -> None:
        if self.at_change():
            self.kill()
        fsync(handle)

    setattr(CompressorModule, "training_step", recorded_step)  # noqa: B010 (mypy rejects an assignment)
    setattr(callbacks, "save_atomically", counted_save)  # noqa: B010
    setattr(torch, "save", half_save)  # noqa: B010
    setattr(os, "fsync", counted_fsync)  # noqa: B010
    sys.addaudithook(self.on_event)
