"""Writing shards: whole or not there, the same bytes again, and shared between processes.

A shard is written beside its place and renamed, and the index comes last, so an interrupted run leaves no half shard
and the same command goes on where it stopped. Any number of processes, on any machines that share the folder, may run
the same command at the same time: each takes the next shard that nobody holds the lock of.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import webdataset as wds
from filelock import FileLock, Timeout
from tqdm import tqdm

from framefold.errors import DataError
from framefold.files import write_json

from .index import FORMAT, INDEX, STARTED, Shard, read_folder, read_shard_json

Task = TypeVar("Task")


class Packed(NamedTuple):
    """One sample as it goes into a tar file: its key, its files by extension, and its length (see Shard.lengths)."""

    key: str
    files: dict[str, bytes]
    length: int


class ShardFolder(Generic[Task]):
    """A folder that shards are being written to.

    Args:
        out: the folder.
        kind: "videos" or "features".
        schema: of the samples.
        settings: JSON-able; what decides the bytes of the shards. Another call may share the folder if it has the same.
        verb: command that the user ran, for messages.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(self, out: str, kind: str, schema: int, settings: dict[str, Any], verb: str) -> None:
        self.folder, self.kind, self.schema, self.settings, self.verb = Path(out), kind, schema, settings, verb
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complete = not self._begin()

    def _begin(self) -> bool:
        """Whether anything is left to write; the settings are noted down before the first shard."""
        for name in (INDEX, STARTED):
            file = self.folder / name
            if file.exists():
                found = read_shard_json(file).get("settings")
                if found != self.settings:
                    raise DataError(
                        f"{self.folder} holds shards of other settings ({_differences(found or {}, self.settings)}): "
                        "choose another --out or delete it"
                    )
                if name == STARTED:
                    return True
                return any(not Path(shard.path).is_file() for shard in read_folder(self.folder).shards)
        if any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise DataError(f"{self.folder} is not empty and holds no shards of '{self.verb}': choose another --out")
        write_json(self.folder / STARTED, {"framefold_shards": FORMAT, "settings": self.settings})
        return True

    def write(self, tasks: Sequence[Task], samples: Callable[[Task], Iterable[Packed]], workers: int = 1) -> bool:
        """Write ``shard-000000.tar`` and so on, one a task, then the index; what is already there stays.

        Args:
            tasks: what to make each shard of; picklable if there are several workers, as is `samples`.
            samples: makes the samples of a shard, always the same for equal tasks.
            workers: processes that write shards at the same time.

        Returns:
            Whether the folder is complete: other processes may still be writing some of the shards.

        Raises:
            OSError: the disk is full or not writable; finished shards are kept.
        """
        names = [f"shard-{i:06d}.tar" for i in range(len(tasks))]
        todo = [(self.folder / name, task, samples) for name, task in zip(names, tasks, strict=True)]
        for _ in tqdm(_written(todo, workers), total=len(todo), desc=f"shards {self.folder}", unit="shard"):
            pass
        shards = [self._described(self.folder / name) for name in names]
        if any(shard is None for shard in shards):
            return False
        head = {"framefold_shards": FORMAT, "schema": self.schema, "kind": self.kind, "settings": self.settings}
        write_json(self.folder / INDEX, head | {"samples": sum(s["samples"] for s in shards if s), "shards": shards})
        (self.folder / STARTED).unlink(missing_ok=True)
        for name in names:
            _note(self.folder / name).unlink(missing_ok=True)
            _lock(self.folder / name).unlink(missing_ok=True)
        return True

    def _described(self, path: Path) -> dict[str, Any] | None:
        """What the index says of a shard, None while it is not there."""
        if not path.exists():
            return None
        entry: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size}
        try:
            return entry | read_shard_json(_note(path))["shard"]
        except DataError:
            known = {
                shard.path: shard for shard in _indexed(self.folder)
            }  # written by an earlier run, or a quicker one
            found = known.get(str(path))
            return None if found is None else entry | {"samples": found.samples, "lengths": list(found.lengths)}


def _written(todo: list[Any], workers: int) -> Iterator[Any]:
    """The tasks, in order, as they get ready."""
    if workers == 1:
        yield from map(_write_shard, todo)
        return
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(_write_shard, todo)
    finally:  # Ctrl-C: what is being written gets finished (seconds), the rest is not begun
        pool.shutdown(cancel_futures=True)


def _write_shard(job: tuple[Path, Any, Callable[[Any], Iterable[Packed]]]) -> None:
    """Write one shard, unless it is there or another process is at it."""
    path, task, samples = job
    try:
        with FileLock(_lock(path), timeout=0):
            if path.exists() and (_note(path).exists() or (path.parent / INDEX).exists()):
                return
            _write_tar(path, samples(task))
    except Timeout:
        return


def _write_tar(path: Path, samples: Iterable[Packed]) -> None:
    """Write the tar file and then its note, which says how many samples of which lengths are in it."""
    beside, lengths = path.with_name(f".{path.name}.part"), []
    try:
        with open(beside, "wb") as file:
            # No time and no user in the tar headers: the same settings give the same bytes.
            with wds.TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
                for key, files, length in samples:
                    tar.write({"__key__": key, **files})
                    lengths.append(length)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        shard = {"samples": len(lengths), "lengths": lengths}
        write_json(_note(path), {"framefold_shards": FORMAT, "shard": shard})
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from error
    finally:
        beside.unlink(missing_ok=True)


def _indexed(folder: Path) -> tuple[Shard, ...]:
    return read_folder(folder).shards if (folder / INDEX).exists() else ()


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return ", ".join(f"{key}={found.get(key)}" for key, value in wanted.items() if found.get(key) != value)
