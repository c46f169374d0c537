"""Write checkpoints atomically under every strategy, and raise errors on every rank.

A checkpoint is written under a hidden name next to its destination, and renamed once all of it is on the disk. A folder
cannot be replaced by renaming, so the previous one is renamed first. At every moment there is a complete checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.strategies import DeepSpeedStrategy

from framefold.errors import CheckpointError
from framefold.files import fsync_path

from .inventory import (
    MANIFEST,
    PARTIAL,
    REPLACED,
    read_header,
    size_and_crc,
    temporary_path,
    verify_checkpoint,
    write_manifest,
)
from .strategy_name import strategy_name

TAG = "checkpoint"  # Lightning's name for the one checkpoint in a DeepSpeed folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a file under a hidden name and rename it: a kill or a full disk leaves the previous file intact."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a file; hidden names, which :func:`save_atomically` passes, are written directly.

        Raises:
            OSError: the disk is full or not writable.
        """
        path = Path(path)
        temporary = path if path.name.startswith(".") else temporary_path(path, PARTIAL)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, Exception):
                raise add_path(error, path) from error
            raise


def save_atomically(trainer: pl.Trainer, path: Path, previous_name: str = "", weights_only: bool | None = None) -> None:
    """Save a checkpoint so that a kill or a full disk at any moment leaves a complete one; all ranks call it.

    Args:
        trainer: whose state is saved.
        path: file or folder to write, depending on the strategy.
        previous_name: name under which the checkpoint that is replaced is kept; "": it is deleted.
        weights_only: save no state of the optimizer and the loops.

    Raises:
        OSError, CheckpointError: the checkpoint could not be written; raised on every rank, wherever it failed.
    """
    strategy: Any = trainer.strategy
    path = Path(strategy.broadcast(str(path)))
    partial = temporary_path(path, PARTIAL)
    run_on_all_ranks(lambda: _clean_up(partial, path) if trainer.is_global_zero else None, path)
    content: dict[str, Any] = {}
    steps = run_on_all_ranks(lambda: _collect_state(trainer, content, weights_only), path)
    if len(set(steps)) > 1:
        raise CheckpointError(f"{path} was not written: the ranks are at different steps, {steps}")
    written_by = {"strategy": strategy_name(strategy), "world_size": trainer.world_size}
    run_on_all_ranks(lambda: _write_state(strategy, content | {"written_by": written_by}, partial), path)
    if strategy.broadcast(partial.is_dir()):
        kind = "deepspeed" if isinstance(strategy, DeepSpeedStrategy) else "fsdp2"
        _complete_folder(trainer, partial, {"kind": kind, "step": steps[0], **written_by})
    run_on_all_ranks(lambda: _move_into_place(partial, path, previous_name) if trainer.is_global_zero else None, path)


def run_on_all_ranks(action: Callable[[], Any], path: Path) -> list[Any]:
    """Run an action on every rank and wait for all of them; if it fails on one rank, raise on all.

    Args:
        action: called without arguments.
        path: what is being written, for messages.

    Returns:
        The results, by rank.

    Raises:
        Exception: the error of this rank.
        OSError: the action failed on another rank.
    """
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = add_path(error, path)
    text = "" if failure is None else f"{type(failure).__name__}: {failure}"
    outcomes: list[Any] = [(result, text)]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        outcomes = [None] * dist.get_world_size()
        dist.all_gather_object(outcomes, (result, text))
    if failure is not None:
        raise failure
    for rank, (_, text) in enumerate(outcomes):
        if text:
            raise OSError(f"rank {rank} could not write {path}: {text}")
    return [result for result, _ in outcomes]


def add_path(error: Exception, path: Path) -> Exception:
    """Return the error with the path that could not be written."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):  # torch does not say why it failed
        return OSError(f"cannot write {path}, is the disk full? ({error})")
    return error


def _collect_state(trainer: pl.Trainer, content: dict[str, Any], weights_only: bool | None) -> int:
    content |= trainer._checkpoint_connector.dump_checkpoint(bool(weights_only))
    return trainer.global_step


def _write_state(strategy: Any, content: dict[str, Any], partial: Path) -> None:
    if not isinstance(strategy, DeepSpeedStrategy):
        strategy.save_checkpoint(content, partial)
        return
    engine = strategy.deepspeed_engine
    state = {key: value for key, value in content.items() if key not in ("state_dict", "optimizer_states")}
    with _collect_errors(engine) as errors:
        # _complete_folder writes the file "latest": if DeepSpeed fails to, rank 0 misses a barrier
        engine.save_checkpoint(
            str(partial),
            client_state=state,
            tag=TAG,
            save_latest=False,
            exclude_frozen_parameters=strategy.exclude_frozen_parameters,
        )
    if errors:
        raise errors[0]


@contextmanager
def _collect_errors(engine: Any) -> Iterator[list[Exception]]:
    """Collect errors while DeepSpeed saves instead of raising them, so that every rank reaches every barrier."""
    errors: list[Exception] = []
    real = engine.checkpoint_engine

    class CheckpointEngine:
        def __getattr__(self, name: str) -> Any:
            attribute = getattr(real, name)
            if name not in ("save", "makedirs", "commit"):
                return attribute

            def collect(*args: Any, **kwargs: Any) -> Any:
                try:
                    return attribute(*args, **kwargs)
                except Exception as error:
                    errors.append(error)

            return collect

    engine.checkpoint_engine = CheckpointEngine()
    engine._copy_recovery_script = lambda path: None  # 'framefold checkpoint' replaces the script that it would copy
    try:
        yield errors
    except Exception as error:  # the engine ends with a barrier, which this rank has not reached
        errors.append(error)
        dist.barrier()
    finally:
        engine.checkpoint_engine = real
        del engine._copy_recovery_script


def _complete_folder(trainer: pl.Trainer, folder: Path, about: dict[str, Any]) -> None:
    """Sync a folder to the disk and write its manifest; the files are divided among the ranks."""
    if trainer.is_global_zero and about["kind"] == "deepspeed":
        run_on_all_ranks(lambda: (folder / "latest").write_text(TAG), folder)
    else:
        run_on_all_ranks(lambda: None, folder)
    names = trainer.strategy.broadcast(
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    )

    def sums() -> dict[str, list[int]]:
        mine = names[trainer.global_rank :: trainer.world_size]
        for name in mine:
            fsync_path(folder / name)
        return {name: size_and_crc(folder / name) for name in mine}

    files = {name: value for part in run_on_all_ranks(sums, folder) for name, value in part.items()}
    run_on_all_ranks(lambda: write_manifest(folder, about, files) if trainer.is_global_zero else None, folder)
    if trainer.is_global_zero:
        for path in [folder, *(inner for inner in folder.rglob("*") if inner.is_dir())]:
            fsync_path(path)


def _clean_up(partial: Path, path: Path) -> None:
    """Deal with what a killed process left: finish a complete replacement and delete an incomplete checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    finish_replacement(path)
    remove_path(partial)


def finish_replacement(path: Path) -> None:
    """Finish a replacement that was interrupted by a kill, if there is no checkpoint at its path."""
    for suffix in (PARTIAL, REPLACED):
        leftover = temporary_path(path, suffix)
        if leftover.exists() and not path.exists() and not verify_checkpoint(read_header(leftover)).problem:
            os.replace(leftover, path)


def _move_into_place(partial: Path, path: Path, previous_name: str) -> None:
    """Rename; between any two lines there is a complete checkpoint under a name that ``list_checkpoints`` knows."""
    previous = path.with_name(previous_name) if previous_name else temporary_path(path, REPLACED)
    if partial.is_file():
        fsync_path(partial)
    if path.exists() and previous_name:
        finish_replacement(previous)
        if previous.is_dir() or (previous.exists() and path.is_dir()):  # it cannot be replaced by renaming
            remove_path(temporary_path(previous, REPLACED))
            os.replace(previous, temporary_path(previous, REPLACED))
        os.replace(path, previous)
    elif path.exists() and (path.is_dir() or partial.is_dir()):
        remove_path(previous)
        os.replace(path, previous)
    os.replace(partial, path)
    fsync_path(path.parent)
    remove_path(temporary_path(previous, REPLACED) if previous_name else previous)


def remove_path(path: Path) -> None:
    """Delete a file or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
