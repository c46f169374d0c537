"""Inside of a rank: notes what each batch held, and sends SIGKILL at a moment that was asked for.

Not a test: ranks of :mod:`.ranks` call ``arm`` before the command. Notes are written without a buffer, so that what was
noted before a kill is there.
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

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}  # of the disk
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Armed:
    """A rank, and the kill that it carries out, if it is the one that does.

    Args:
        folder: for notes: ``pid.N``, and of rank N a line for each batch and each checkpoint in ``batches.N`` and
            ``saves.N``.
        trigger: the rank that kills. victims: ranks that are killed, itself perhaps among them.
        step: the first at which it may come. seconds: after a step has begun; None: while a checkpoint is written.
        passed: checkpoints that this process writes before. change: of the disk, in front of which it comes then,
            counted from the first checkpoint on that may be; where that is a call of torch.save, half is written.
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

    def note(self, kind: str, *values: Any) -> None:
        file = os.open(self.folder / f"{kind}.{self.rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, (json.dumps(values) + "\n").encode())
        os.close(file)

    def kill(self) -> None:
        """What kill -9 does, to all victims; to this rank last."""
        armed, self.armed = self.armed, False
        for victim in sorted(self.victims, key=lambda rank: rank == self.rank) if armed else ():
            os.kill(int((self.folder / f"pid.{victim}").read_text()), signal.SIGKILL)

    def at_step(self, step: int) -> None:
        """In front of a step: set the alarm; or kill now, if the alarm has had two steps' time."""
        if not self.armed or self.seconds is None or step < self.step:
            return
        if step >= self.step + 2:
            self.kill()
        elif self.timer is None:
            self.timer = threading.Timer(self.seconds, self.kill)
            self.timer.daemon = True
            self.timer.start()

    def at_change(self) -> bool:
        """In front of a change of the disk; whether this is the moment."""
        self.changes += self.saving
        return self.saving and self.armed and self.seconds is None and self.changes == self.change

    def on_event(self, event: str, args: tuple[Any, ...]) -> None:
        """The interpreter's, of what it is about to do."""
        if self.saving and (event in CHANGES or (event == "open" and args[2] & WRITING)) and self.at_change():
            self.kill()


def arm(rank: int, folder: str, **moment: Any) -> None:
    """Prepare a rank, before the command runs in it."""
    from framefold.training.fit import callbacks
    from framefold.training.module import CompressorModule

    self = Armed(rank, folder, **moment)
    training_step, save_whole, save, fsync = CompressorModule.training_step, callbacks.save_whole, torch.save, os.fsync

    def noted_step(module: CompressorModule, batch: Any, batch_idx: int) -> Any:
        keys = [sample.key for sample in batch.samples]
        self.note("batches", module.current_epoch, batch_idx, module.global_step, keys)
        self.at_step(module.global_step)
        return training_step(module, batch, batch_idx)

    def counted_save(trainer: Any, *args: Any, **more: Any) -> None:
        before, self.saving = self.changes, trainer.global_step >= self.step and self.passed < 1
        save_whole(trainer, *args, **more)
        self.saving, self.passed = False, self.passed - 1
        self.note("saves", trainer.global_step, self.changes - before)

    def half_save(content: Any, file: Any, **more: Any) -> None:
        if self.at_change():
            whole = io.BytesIO()
            save(content, whole, **more)
            half = whole.getvalue()[: whole.tell() // 2]
            if isinstance(file, (str, Path)):
                Path(file).write_bytes(half)
            else:
                file.write(half)
                file.flush()
            self.kill()
            if not isinstance(file, (str, Path)):  # it was another rank
                file.seek(0)
        save(content, file, **more)

    def counted_fsync(handle: int) -> None:
        if self.at_change():
            self.kill()
        fsync(handle)

    setattr(CompressorModule, "training_step", noted_step)  # noqa: B010 (types do not like it otherwise)
    setattr(callbacks, "save_whole", counted_save)  # noqa: B010
    setattr(torch, "save", half_save)  # noqa: B010
    setattr(os, "fsync", counted_fsync)  # noqa: B010
    sys.addaudithook(self.on_event)
