"""The verb ``framefold shards features``: what a host makes of the videos of shards, as shards.

Nothing here may import transformers before torchvision has been found, since transformers looks for it once; not even
under ``TYPE_CHECKING``, which jsonargparse runs to read the signature.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from framefold import __version__
from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.index import FEATURES, INDEX, VIDEOS, Index, Shard, read_folder
from framefold.data.shards.sources import resolve_shards
from framefold.data.shards.writer import ShardFolder
from framefold.errors import DataError

from .device import device_of
from .locate import FoundHost, find_host
from .torchvision import find_torchvision

VERB = "framefold shards features"

LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")  # of torchrun, SLURM and mpirun

QUIET = "TQDM_DISABLE"


def features(
    shards: str,
    host: str,
    out: str,
    frames: int | None = None,
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    store: Literal["bfloat16", "float32"] = "bfloat16",
    attention: bool = False,
    device: str | None = None,
    workers: int = 1,
    max_damaged: float = 0.05,
    index: str | None = None,
) -> None:
    """Encode the videos of shards once with the vision side of a host; training then needs neither it nor a processor.

    An interrupted run goes on where it stopped. Any number of processes may run the same command at the same time, on
    machines that share the folder: each takes the next shard that nobody is at, so 'srun', 'torchrun' or several shells
    are all that is needed. Videos that are damaged, or that the host refuses, are left out, counted and named.

    Args:
        shards: videos: a folder of 'framefold shards', tar files, globs, brace lists, URLs or ``pipe:`` commands.
        host: folder of a host, or its id in the cache of the Hub.
        out: folder for the shards of features, one for each of the videos.
        frames: most frames of a video, taken evenly over its duration; by default all that are stored.
        revision: of a host from the Hub.
        dtype: that the host computes in; "auto" is what it was saved in.
        store: dtype of the stored features.
        attention: store the attention that tokens received in the vision encoder as well.
        device: cpu or cuda (cuda:1 ...); by default cuda where there is one, and that of its local rank where there are
            several.
        workers: processes here, each with a host of its own; on several GPUs they take turns.
        max_damaged: share of the videos that may be left out.
        index: file or URL of the index of the shards, where none is beside them.

    Raises:
        DataError: no shards of videos, too much damage, a setting out of range, or a folder that holds something else.
        HostError, UnsupportedHostError: no host that can be used.
        MissingExtraError: torchvision or what else the host's processor needs; the message installs it.
        OSError: the disk is full or not writable; finished shards are kept.
    """
    if workers < 1 or not 0 <= max_damaged <= 1 or (frames is not None and frames < 1):
        told = f"{workers}, {frames} and {max_damaged}"
        raise DataError(f"workers and frames must be positive, max_damaged a share; got {told}")
    devices = _devices(device, workers)
    source, found = resolve_shards(shards, index), find_host(host, revision)
    if source.kind != VIDEOS:
        raise DataError(f"{shards} holds features already: give the videos they were made of")
    if not found.is_embedded:
        find_torchvision()
    settings = _settings(source, found, {"frames": frames, "dtype": dtype, "store": store, "attention": attention})
    job = _Job(source, found, settings, out, max_damaged * source.samples)
    with _helpers(job, devices[1:]):
        job.do(devices[0])
    _report(out, source, max_damaged)


@dataclass(frozen=True)
class _Job:
    """What several processes do together; allowed: videos that each of them may leave out."""

    source: Index
    found: FoundHost
    settings: dict[str, Any]
    out: str
    allowed: float

    def do(self, device: str) -> None:
        """Encode the shards that no other process is at."""
        folder = ShardFolder[Shard](self.out, FEATURES, SCHEMA_VERSION, self.settings, VERB)
        if folder.complete:
            return
        if not self.found.is_embedded:
            find_torchvision()
        from .feature_encoder import Encoder

        folder.write(self.source.shards, Encoder(self.found, self.settings, device, self.allowed))


def _settings(source: Index, found: FoundHost, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the bytes of the features, JSON-able."""
    import transformers

    from .processor import load_config

    width = load_config(str(found.folder)).get_text_config().hidden_size
    versions = {"framefold": __version__, "transformers": transformers.__version__}
    videos = {"shards": source.source, "samples": source.samples, "settings": source.settings}
    return {"host": found.base_model(width), **chosen, **versions, "source": videos}


def _report(out: str, source: Index, max_damaged: float) -> None:
    """Say what there is now."""
    if not (Path(out) / INDEX).exists():
        print(f"other processes are still writing to {out}; if one was killed, run the same command again")
        return
    made = read_folder(out)
    tokens, lost = sum(sum(shard.lengths) for shard in made.shards), source.samples - made.samples
    print(f"{out} is complete: features of {made.samples} videos, {tokens:,} visual tokens; {lost} videos left out")
    if lost > max_damaged * source.samples:
        raise DataError(
            f"{lost} of {source.samples} videos were left out, more than max_damaged allows: 'framefold shards check"
            f" --shards {source.source}' names what is damaged; a larger --max_damaged takes the others"
        )


def _devices(name: str | None, workers: int) -> list[str]:
    """One for each process of this machine."""
    first = device_of(name)
    count = torch.cuda.device_count() if first.type == "cuda" else 0
    if name is not None or count < 2:
        return [str(first)] * workers
    rank = next((int(os.environ[variable]) for variable in LOCAL_RANK if variable in os.environ), 0)
    return [f"cuda:{(rank * workers + worker) % count}" for worker in range(workers)]


@contextmanager
def _helpers(job: _Job, devices: list[str]) -> Iterator[None]:
    """Processes that share the work with the block, one a device; their first error is raised at the end.

    They are spawned, since a fork holds neither CUDA nor threads; where the block fails, they are ended.
    """
    context = multiprocessing.get_context("spawn")
    started = []
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"  # one process shows progress
    try:
        for device in devices:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_help, args=(theirs, job, device), daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
    finally:
        os.environ.pop(QUIET)
        os.environ |= {} if before is None else {QUIET: before}
    try:
        yield
        for process, pipe in started:
            _check(process, pipe)
    finally:
        for process, _ in started:
            process.kill()
            process.join()


def _check(process: Any, pipe: Connection) -> None:
    """Wait for a process, and raise what it has raised."""
    try:
        error = pipe.recv()
    except EOFError:
        process.join()
        raise DataError(f"a helper ended with status {process.exitcode}: run the same command again") from None
    if error is not None:
        raise error


def _help(pipe: Connection, job: _Job, device: str) -> None:
    try:
        job.do(device)
        pipe.send(None)
    except Exception as error:
        pipe.send(error)
