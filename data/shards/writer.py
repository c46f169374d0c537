"""Writing shards atomically and reproducibly, from several processes at once.

Every shard is written atomically and the index last, so an interrupted run leaves no partial shard and the same command
continues where it stopped. Any number of processes, on any machines that share the folder, may run the same command at
the same time: each writes the next shard whose lock is free.
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

from framefold.errors import DataError
from framefold.files import remove_leftovers, replace_file, write_json
from framefold.progress import QUIET, progress_bar

from .index import FORMAT, INDEX, STARTED, Shard, read_index, read_shard_json

Task = TypeVar("Task")


class PackedSample(NamedTuple):
    """A sample to be stored in a tar file.

    Attributes:
        key: name, unique within the data set.
        files: contents of its files by extension.
        length: see :attr:`.index.Shard.lengths`.
    """

    key: str
    files: dict[str, bytes]
    length: int


class ShardFolder(Generic[Task]):
    """A folder to which shards are written.

    Args:
        out: the folder.
        kind: "videos" or "features".
        schema: version of the samples' json files.
        settings: JSON values that determine the bytes of the shards. Calls with equal settings may share a folder.
        verb: command that the user ran, for messages.

    Attributes:
        complete: whether the folder already holds all shards.

    Raises:
        DataError: the folder contains something else.
    """

    def __init__(self, out: str, kind: str, schema: int, settings: dict[str, Any], verb: str) -> None:
        self.folder, self.kind, self.schema, self.settings, self.verb = Path(out), kind, schema, settings, verb
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complete = not self._begin()

    def _begin(self) -> bool:
        """Return whether anything is left to write; store the settings before the first shard is written."""
        for name in (INDEX, STARTED):
            file = self.folder / name
            if file.exists():
                stored = read_shard_json(file).get("settings")
                if stored != self.settings:
                    raise DataError(
                        f"{self.folder} has shards of other settings ({_differences(stored or {}, self.settings)}): "
                        "choose another --out or delete it"
                    )
                if name == STARTED:
                    return True
                return any(not Path(shard.path).is_file() for shard in read_index(self.folder).shards)
        if any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise DataError(f"{self.folder} is not empty and has no shards of '{self.verb}': choose another --out")
        write_json(self.folder / STARTED, {"framefold_shards": FORMAT, "settings": self.settings})
        return True

    def write(self, tasks: Sequence[Task], samples: Callable[[Task], Iterable[PackedSample]], workers: int = 1) -> bool:
        """Write ``shard-000000.tar`` and so on, one per task, then the index; finished shards are not written again.

        Args:
            tasks: one per shard; picklable if there are several workers.
            samples: returns the samples of a shard, always the same for equal tasks; picklable like the tasks.
            workers: processes that write shards at the same time.

        Returns:
            Whether the folder is complete; if not, other processes are still writing some of the shards.

        Raises:
            OSError: the disk is full or not writable; finished shards are kept.
        """
        paths = [self.folder / f"shard-{number:06d}.tar" for number in range(len(tasks))]
        jobs = [(path, task, samples) for path, task in zip(paths, tasks, strict=True)]
        for _ in progress_bar(_run(jobs, workers), f"shards {self.folder}", total=len(jobs), unit="shard"):
            pass
        shards = [self._describe(path) for path in paths]
        if any(shard is None for shard in shards):
            return False
        head = {"framefold_shards": FORMAT, "schema": self.schema, "kind": self.kind, "settings": self.settings}
        write_json(self.folder / INDEX, head | {"samples": sum(s["samples"] for s in shards if s), "shards": shards})
        for file in (self.folder / STARTED, *map(_sidecar, paths), *map(_lock, paths)):
            file.unlink(missing_ok=True)
        return True

    def _describe(self, path: Path) -> dict[str, Any] | None:
        """Return the index entry of a shard, or None if the shard is not finished."""
        if not path.exists():
            return None
        entry: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size}
        try:
            return entry | read_shard_json(_sidecar(path))["shard"]
        except DataError:  # its sidecar was removed by an earlier run, or by another process that finished first
            indexed = {shard.path: shard for shard in _indexed_shards(self.folder)}.get(str(path))
            return None if indexed is None else entry | {"samples": indexed.samples, "lengths": list(indexed.lengths)}


def _run(jobs: list[Any], workers: int) -> Iterator[Any]:
    """Write the shards of all jobs; yield once per finished job, in order."""
    if workers == 1:
        yield from map(_write_shard, jobs)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        yield from pool.map(_write_shard, jobs)
    finally:  # on Ctrl-C, shards in progress are finished (seconds) and the others are not started
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C and the progress to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[QUIET] = "1"


def _write_shard(job: tuple[Path, Any, Callable[[Any], Iterable[PackedSample]]]) -> None:
    """Write one shard, unless it exists or another process is writing it."""
    path, task, samples = job
    try:
        with FileLock(_lock(path), timeout=0):
            if path.exists() and (_sidecar(path).exists() or (path.parent / INDEX).exists()):
                return
            for file in (path, _sidecar(path)):
                remove_leftovers(file)
            replace_file(path, lambda temporary: _write_tar_and_sidecar(temporary, _sidecar(path), samples(task)))
    except Timeout:
        return


def _write_tar_and_sidecar(path: Path, sidecar: Path, samples: Iterable[PackedSample]) -> None:
    """Write samples to a tar file, then its sidecar: before the tar is renamed, so that no tar is without one."""
    lengths: list[int] = []
    # The tar headers contain no time and no user, so that equal settings give equal bytes.
    with open(path, "wb") as file, wds.TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
        for key, files, length in samples:
            tar.write({"__key__": key, **files})
            lengths.append(length)
    write_json(sidecar, {"framefold_shards": FORMAT, "shard": {"samples": len(lengths), "lengths": lengths}})


def _indexed_shards(folder: Path) -> tuple[Shard, ...]:
    return read_index(folder).shards if (folder / INDEX).exists() else ()


def _sidecar(path: Path) -> Path:
    """Return the file with the number and the lengths of the samples in a shard; it exists until the index does."""
    return path.with_name(f".{path.name}.json")


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _differences(stored: dict[str, Any], settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={stored.get(key)}" for key, value in settings.items() if stored.get(key) != value)
