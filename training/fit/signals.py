"""End a run on SIGTERM and Ctrl-C: save it at the next step boundary, and in any case end in time.

The first signal is recorded, and all ranks act on it together after their step. A single process that waits for data or
validates does so at once. A second Ctrl-C ends the run wherever it is. A process that does not react to SIGTERM,
because a step, a pipe or another rank does not return, is ended by a thread.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any, NoReturn

import psutil
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from framefold.training.checkpoint.callbacks import LastCheckpoint
from framefold.training.checkpoint.place import pending_validation

SECONDS = 20.0  # from SIGTERM until a process that has not reacted is ended
TERMINATED = 128 + signal.SIGTERM  # exit status


class Interruption:
    """Context in which SIGTERM and Ctrl-C are answered; threads other than the main one cannot answer them.

    Attributes:
        number: the signal that was received, or 0.
        is_waiting: whether the run can end at once, because it loads the host, waits for data or validates.
        report: what is known about checkpoints, for the last line.
        launcher: of the ranks that this process has started.
    """

    def __init__(self) -> None:
        self.number, self.is_waiting = 0, True
        self.report = "there is no checkpoint yet"
        self.launcher: Any = None
        self._cleanup = ExitStack()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:  # as in a background job of a shell
                    before = signal.signal(number, self._receive)
                    self._cleanup.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
            self._watch()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._cleanup.close()
        if self.number and isinstance(error, (KeyboardInterrupt, SystemExit)):
            if os.environ.get("RANK", "0") == os.environ.get("LOCAL_RANK", "0") == "0":
                name = "Ctrl-C" if self.number == signal.SIGINT else "SIGTERM"
                print(f"fit: {name}: {self.report}", file=sys.stderr, flush=True)
            if self.number == signal.SIGTERM:
                raise SystemExit(TERMINATED) from None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_second = bool(self.number) and number == signal.SIGINT
        if not self.number and number == signal.SIGTERM and self.launcher is not None:
            self.launcher.kill(number)
        self.number = self.number or number
        if self.is_waiting or is_second:
            self.end()

    def end(self) -> NoReturn:
        """Raise the exception that ends the run."""
        raise SystemExit(TERMINATED) if self.number == signal.SIGTERM else KeyboardInterrupt

    def _watch(self) -> None:
        """Start the thread that ends a process which does not react; signals reach it even while C code runs."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        ended = threading.Event()
        thread = threading.Thread(target=self._end_late, args=(reader, ended), daemon=True)
        _watching.append(self)
        thread.start()

        def stop() -> None:
            signal.set_wakeup_fd(before)
            _watching.remove(self)
            ended.set()
            os.write(writer, b"\0")
            thread.join(5)
            os.close(writer)
            os.close(reader)

        self._cleanup.callback(stop)

    def _end_late(self, reader: int, ended: threading.Event) -> None:
        while not ended.is_set():
            if signal.SIGTERM not in os.read(reader, 64):
                continue
            if ended.wait(SECONDS):
                return
            text = f"fit: SIGTERM: the run has not reacted for {SECONDS:g} seconds and is ended here; {self.report}\n"
            with suppress(OSError, ValueError):  # not print, because the main thread may hold the lock of the stream
                os.write(sys.stderr.fileno(), text.encode())
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
            os._exit(TERMINATED)


_watching: list[Interruption] = []  # those of this process


def _forget_in_child() -> None:
    """Detach a forked process, such as a loader worker, from the signals of its parent."""
    if _watching:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)  # it would write to the pipe of its parent
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when the run ends
        _watching.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class SaveOnInterrupt(Callback):
    """Save ``last.ckpt`` between two steps when a signal has been received, and end the run on all ranks.

    Args:
        interruption: the signals of this process.
    """

    def __init__(self, interruption: Interruption) -> None:
        self.interruption, self.is_between_steps, self.is_saved = interruption, False, False
        self.validated = (0, 0)  # epochs begun and batches trained at the latest finished validation

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let SIGTERM also reach the ranks that this process has started."""
        launcher = trainer.strategy.launcher
        self.interruption.launcher = launcher if hasattr(launcher, "kill") else None

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.is_between_steps = True
        self._describe(trainer)
        self._set_waiting(False)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Watch the loader of this epoch: a single process that waits for it can end at once."""
        for loader in trainer.fit_loop._combined_loader.flattened if trainer.world_size == 1 else ():
            if hasattr(loader, "on_wait"):
                loader.on_wait = self._set_waiting

    def _set_waiting(self, waits: bool) -> None:
        self.interruption.is_waiting = waits and self.is_between_steps
        if self.interruption.is_waiting and self.interruption.number:
            self.interruption.end()

    def on_train_batch_start(self, *args: Any) -> None:
        self.is_between_steps = False

    def on_train_batch_end(self, trainer: Any, pl_module: pl.LightningModule, *args: Any) -> None:
        """Save and end after the last batch of a step; accumulated gradients are not part of a checkpoint."""
        if trainer.fit_loop._should_accumulate():
            return
        self.is_between_steps = True
        self._describe(trainer)
        if self._any_rank_received(trainer):
            self._save(trainer, pl_module)
            self.interruption.end()

    def _any_rank_received(self, trainer: pl.Trainer) -> bool:
        received = trainer.strategy.reduce_boolean_decision(bool(self.interruption.number), all=False)
        if received and not self.interruption.number:
            self.interruption.number = signal.SIGTERM
        return received

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size == 1:
            self.interruption.is_waiting = True
            if self.interruption.number:
                self.interruption.end()

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """End all ranks after the same batch, without saving: the validation is not finished."""
        if trainer.world_size > 1 and self._any_rank_received(trainer):
            self.interruption.end()

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.interruption.is_waiting = not trainer.training and not self.is_between_steps
        if not trainer.sanity_checking:
            self.validated = self._place(trainer)

    def on_exception(self, trainer: Any, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save a run that was ended while it waited for data or validated."""
        is_waiting, self.interruption.is_waiting = self.interruption.is_waiting, False
        is_ours = self.interruption.number and isinstance(exception, (KeyboardInterrupt, SystemExit))
        if is_ours and is_waiting and self.is_between_steps and trainer.global_step and not self.is_saved:
            with pending_validation(trainer, self._place(trainer) != self.validated):
                self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let a run that writes its last checkpoint end by itself."""
        self.is_between_steps = False

    def _place(self, trainer: Any) -> tuple[int, int]:
        loop = trainer.fit_loop
        return loop.epoch_progress.current.ready, loop.epoch_loop.batch_progress.current.processed

    def _save(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.is_saved = True
        for callback in _last_checkpoints(trainer):
            callback.on_train_end(trainer, pl_module)  # saves this step, unless it has been saved
        self._describe(trainer)

    def _describe(self, trainer: Any) -> None:
        """Note the newest checkpoint of this run."""
        callbacks = _last_checkpoints(trainer)
        if callbacks and callbacks[0]._last_checkpoint_saved:
            path, step = callbacks[0]._last_checkpoint_saved, callbacks[0]._last_global_step_saved
            self.interruption.report = f"step {step} is saved in {path}; --resume auto continues from there"
        elif trainer.ckpt_path:
            self.interruption.report = f"nothing new is saved; the run can resume from {trainer.ckpt_path} again"
        elif not callbacks:
            self.interruption.report = "there is no checkpoint: trainer.enable_checkpointing is false"


def _last_checkpoints(trainer: Any) -> list[LastCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
