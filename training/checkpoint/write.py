"""Checkpoints that are whole or not there, whatever the strategy, and errors that reach every rank.

A checkpoint is written under a hidden name beside its place and renamed when all of it is on the disk. A folder cannot
be replaced by renaming, so the one before is moved out of the way first; at every instant there is a whole one.
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

from .inventory import MANIFEST, OLD, PART, crc, hidden, peek, verify, write_manifest
from .strategy_name import strategy_name

TAG = "checkpoint"  # as Lightning calls the only one in a DeepSpeed folder


class Trainer(pl.Trainer):
    """Lightning's, whose every checkpoint is whole or not there: those that SLURM's signal asks for as well."""

    def save_checkpoint(self, filepath: Any, weights_only: bool | None = None, storage_options: Any = None) -> None:
        """See :func:`save_whole`."""
        save_whole(self, Path(filepath), weights_only=weights_only)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes one file beside its place and renames it: a kill or a full disk leaves the one before whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one file; a hidden name is written as it is, for :func:`save_whole`.

        Raises:
            OSError: the disk is full or not writable.
        """
        place = Path(path)
        beside = place if place.name.startswith(".") else hidden(place, PART)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, place)
        except BaseException as error:
            beside.unlink(missing_ok=True)
            if isinstance(error, Exception):
                raise named(error, place) from error
            raise


def save_whole(trainer: pl.Trainer, place: Path, before: str = "", weights_only: bool | None = None) -> None:
    """Save a checkpoint so that a kill or a full disk at any moment leaves a whole one; all ranks call it.

    Args:
        place: file or folder, as the strategy writes. before: name under which the one that was there is kept.

    Raises:
        OSError, CheckpointError: it could not be written; on every rank, whichever it happened on.
    """
    strategy: Any = trainer.strategy
    place = Path(strategy.broadcast(str(place)))
    part = hidden(place, PART)
    together(lambda: _make_room(part, place) if trainer.is_global_zero else None, place)
    content: dict[str, Any] = {}
    steps = together(lambda: _dump(trainer, content, weights_only), place)
    if len(set(steps)) > 1:
        raise CheckpointError(f"{place} was not written: the ranks are at different steps, {steps}")
    written_by = {"strategy": strategy_name(strategy), "world_size": trainer.world_size}
    together(lambda: _write(strategy, content | {"written_by": written_by}, part), place)
    if strategy.broadcast(part.is_dir()):
        kind = "deepspeed" if isinstance(strategy, DeepSpeedStrategy) else "fsdp2"
        _seal(trainer, part, {"kind": kind, "step": steps[0], **written_by})
    together(lambda: _put(part, place, before) if trainer.is_global_zero else None, place)


def together(action: Callable[[], Any], place: Path) -> list[Any]:
    """Do something on every rank, and wait for all of them.

    Returns:
        What it gave on each rank.

    Raises:
        Exception: what it raised on this rank.
        OSError: it failed on another.
    """
    result, failure = None, None
    try:
        result = action()
    except Exception as error:
        failure = named(error, place)
    text = "" if failure is None else f"{type(failure).__name__}: {failure}"
    found: list[Any] = [(result, text)]
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, (result, text))
    if failure is not None:
        raise failure
    for rank, (_, text) in enumerate(found):
        if text:
            raise OSError(f"rank {rank} could not write {place}: {text}")
    return [result for result, _ in found]


def named(error: Exception, place: Path) -> Exception:
    """The error with the place that could not be written in it."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(place)
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):  # it does not say why a write failed
        return OSError(f"cannot write {place}, is the disk full? ({error})")
    return error


def _dump(trainer: pl.Trainer, content: dict[str, Any], weights_only: bool | None) -> int:
    content |= trainer._checkpoint_connector.dump_checkpoint(bool(weights_only))
    return trainer.global_step


def _write(strategy: Any, content: dict[str, Any], part: Path) -> None:
    if not isinstance(strategy, DeepSpeedStrategy):
        strategy.save_checkpoint(content, part)
        return
    engine = strategy.deepspeed_engine
    state = {key: value for key, value in content.items() if key not in ("state_dict", "optimizer_states")}
    with _no_rank_left_behind(engine) as errors:
        # its own mark of success, "latest", is a file of which a failure leaves rank 0 behind: _seal writes it
        engine.save_checkpoint(
            str(part),
            client_state=state,
            tag=TAG,
            save_latest=False,
            exclude_frozen_parameters=strategy.exclude_frozen_parameters,
        )
    if errors:
        raise errors[0]


@contextmanager
def _no_rank_left_behind(engine: Any) -> Iterator[list[Exception]]:
    """While DeepSpeed saves, between barriers: what fails is kept for later, so that every rank meets every barrier."""
    errors: list[Exception] = []
    real = engine.checkpoint_engine

    class Careful:
        def __getattr__(self, name: str) -> Any:
            found = getattr(real, name)
            if name not in ("save", "makedirs", "commit"):
                return found

            def tried(*args: Any, **kwargs: Any) -> Any:
                try:
                    return found(*args, **kwargs)
                except Exception as error:
                    errors.append(error)

            return tried

    engine.checkpoint_engine = Careful()
    engine._copy_recovery_script = lambda path: None  # a script in every checkpoint: 'framefold checkpoint' does it
    try:
        yield errors
    except Exception as error:  # the last thing that the engine does is a barrier
        errors.append(error)
        dist.barrier()
    finally:
        engine.checkpoint_engine = real
        del engine._copy_recovery_script


def _seal(trainer: pl.Trainer, folder: Path, about: dict[str, Any]) -> None:
    """Put a folder on the disk and write its manifest; the ranks share its files."""
    if trainer.is_global_zero and about["kind"] == "deepspeed":
        together(lambda: (folder / "latest").write_text(TAG), folder)
    else:
        together(lambda: None, folder)
    names = trainer.strategy.broadcast(
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    )

    def sums() -> dict[str, list[int]]:
        mine = names[trainer.global_rank :: trainer.world_size]
        for name in mine:
            sync(folder / name)
        return {name: crc(folder / name) for name in mine}

    files = {name: value for part in together(sums, folder) for name, value in part.items()}
    together(lambda: write_manifest(folder, about, files) if trainer.is_global_zero else None, folder)
    if trainer.is_global_zero:
        for place in [folder, *(inner for inner in folder.rglob("*") if inner.is_dir())]:
            sync(place)


def _make_room(part: Path, place: Path) -> None:
    """What a kill left: finish what was whole, remove what was not."""
    place.parent.mkdir(parents=True, exist_ok=True)
    finish(place)
    remove(part)


def finish(place: Path) -> None:
    """Finish a replacement that a kill cut short, if there is no checkpoint at its place."""
    for end in (PART, OLD):
        left = hidden(place, end)
        if left.exists() and not place.exists() and not verify(peek(left)).problem:
            os.replace(left, place)


def _put(part: Path, place: Path, before: str) -> None:
    """Rename; from the first line to the last there is a whole checkpoint under one of the names that find() knows."""
    kept = place.with_name(before) if before else hidden(place, OLD)
    if part.is_file():
        sync(part)
    if place.exists() and before:
        finish(kept)
        if kept.is_dir() or (kept.exists() and place.is_dir()):  # it cannot be replaced
            remove(hidden(kept, OLD))
            os.replace(kept, hidden(kept, OLD))
        os.replace(place, kept)
    elif place.exists() and (place.is_dir() or part.is_dir()):
        remove(kept)
        os.replace(place, kept)
    os.replace(part, place)
    sync(place.parent)
    remove(hidden(kept, OLD) if before else kept)


def sync(place: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(place: Path) -> None:
    """Remove a file or folder, if it is there."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
