"""The command ``framefold shards features``: encode the videos of shards with a host, and store the features as shards.

This module must not import transformers, which looks for torchvision only once, before torchvision has been found; not
even under ``TYPE_CHECKING``, which jsonargparse executes to read the signature.
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

from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.index import FEATURES, INDEX, VIDEOS, Index, Shard, read_index
from framefold.data.shards.sources import resolve_shards
from framefold.data.shards.writer import ShardFolder
from framefold.errors import DataError
from framefold.progress import QUIET
from framefold.version import __version__

from .device import resolve_device
from .locate import HostFolder, find_host
from .torchvision import find_torchvision

VERB = "framefold shards features"

LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")  # of torchrun, SLURM and mpirun


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
    vision_chunk: int | None = None,
) -> None:
    """Encode the videos of shards once with the vision side of a host, so that training needs no vision encoder.

    Running the command again resumes an interrupted run. Several processes may run the same command at the same time,
    on machines that share the folder, for example under 'srun' or 'torchrun': each takes the next shard that no other
    process is encoding. Videos that are damaged, or that the host refuses, are skipped, counted and named.

    Args:
        shards: videos: a folder of 'framefold shards', tar files, globs, brace lists, URLs or ``pipe:`` commands.
        host: folder of a host, or its id on the Hub, if it has been downloaded (hf download).
        out: folder for the shards of features, one per shard of videos.
        frames: maximum number of frames of a video, evenly spaced over its duration; by default all stored frames.
        revision: of a host from the Hub.
        dtype: of the host's computation; "auto" is bfloat16 on a GPU, and the dtype of its weights elsewhere.
        store: dtype of the stored features.
        attention: also store the attention that tokens received in the vision encoder.
        device: cpu or cuda (cuda:1 ...); by default cuda if available, and with several GPUs that of the local rank.
        workers: number of processes on this machine, each with its own host; they are distributed over the GPUs.
        max_damaged: fraction of the videos that may be skipped.
        index: file or URL of the index of the shards, if it is not in their folder.
        vision_chunk: number of frames that the vision encoder takes at once, so that its memory does not grow with the
            video; by default all.

    Raises:
        DataError: No shards of videos, too many damaged videos, a setting out of range, or a folder with other content.
        HostError, UnsupportedHostError: No usable host.
        MissingExtraError: A package that the host's processor needs is missing; the message holds its install command.
        OSError: The disk is full or not writable; finished shards are kept.
    """
    if not 0 <= max_damaged <= 1 or any(count is not None and count < 1 for count in (workers, frames, vision_chunk)):
        values = f"{workers}, {frames}, {vision_chunk} and {max_damaged}"
        raise DataError(f"workers, frames and vision_chunk must be positive and max_damaged a fraction, got {values}")
    devices = _devices(device, workers)
    videos, folder = resolve_shards(shards, index), find_host(host, revision)
    if videos.kind != VIDEOS:
        raise DataError(f"{shards} already holds features: give the videos that they were encoded from")
    if not folder.is_tinyhost:
        find_torchvision()
    settings = _settings(videos, folder, {"frames": frames, "dtype": dtype, "store": store, "attention": attention})
    job = _Job(videos, folder, settings, out, max_damaged * videos.samples, vision_chunk)
    with _worker_processes(job, devices[1:]):
        job.run(devices[0])
    _report(out, videos, max_damaged)


@dataclass(frozen=True)
class _Job:
    """The work that several processes share.

    Attributes:
        videos: index of the shards of videos.
        host: the host to encode with.
        settings: of the features.
        out: folder of the features.
        allowed: number of videos that each process may skip.
        vision_chunk: number of frames that the vision encoder takes at once; None for all.
    """

    videos: Index
    host: HostFolder
    settings: dict[str, Any]
    out: str
    allowed: float
    vision_chunk: int | None = None

    def run(self, device: str) -> None:
        """Encode the shards that no other process is encoding."""
        folder = ShardFolder[Shard](self.out, FEATURES, SCHEMA_VERSION, self.settings, VERB)
        if folder.complete:
            return
        if not self.host.is_tinyhost:
            find_torchvision()
        from .feature_encoder import FeatureEncoder

        encoder = FeatureEncoder(self.host, self.settings, device, self.allowed, self.vision_chunk)
        folder.write(self.videos.shards, encoder)


def _settings(videos: Index, host: HostFolder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that determines the bytes of the features, as JSON-able values."""
    import transformers

    from .processor import load_config

    width = load_config(str(host.folder)).get_text_config().hidden_size
    versions = {"framefold": __version__, "transformers": transformers.__version__}
    source = {"shards": videos.source, "samples": videos.samples, "settings": videos.settings}
    return {"host": host.base_model(width), **options, **versions, "source": source}


def _report(out: str, videos: Index, max_damaged: float) -> None:
    """Print what has been written so far; raise if too many videos were skipped."""
    if not (Path(out) / INDEX).exists():
        print(f"other processes are still writing to {out}; if one was killed, run the same command again")
        return
    index = read_index(out)
    tokens, skipped = sum(sum(shard.lengths) for shard in index.shards), videos.samples - index.samples
    print(f"{out} is complete: features of {index.samples} videos, {tokens:,} visual tokens; {skipped} videos skipped")
    if skipped > max_damaged * videos.samples:
        raise DataError(
            f"{skipped} of {videos.samples} videos were skipped, more than max_damaged allows: 'framefold shards check"
            f" --shards {videos.source}' names what is damaged; a larger --max_damaged accepts the other videos"
        )


def _devices(name: str | None, workers: int) -> list[str]:
    """Return one device for each process of this machine."""
    first = resolve_device(name)
    count = torch.cuda.device_count() if first.type == "cuda" else 0
    if name is not None or count < 2:
        return [str(first)] * workers
    rank = next((int(os.environ[variable]) for variable in LOCAL_RANK if variable in os.environ), 0)
    return [f"cuda:{(rank * workers + worker) % count}" for worker in range(workers)]


@contextmanager
def _worker_processes(job: _Job, devices: list[str]) -> Iterator[None]:
    """Run the job in one process per device during the block, and wait for them at its end.

    The first error of a process is raised at the end; if the block fails, the processes are killed. They are spawned,
    because CUDA and threads do not survive a fork.
    """
    context = multiprocessing.get_context("spawn")
    started = []
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"  # only the main process shows progress
    try:
        for device in devices:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(sender, job, device), daemon=True)
            process.start()
            sender.close()
            started.append((process, receiver))
    finally:
        os.environ.pop(QUIET)
        os.environ |= {} if before is None else {QUIET: before}
    try:
        yield
        for process, receiver in started:
            _join(process, receiver)
    finally:
        for process, _ in started:
            process.kill()
            process.join()


def _join(process: Any, receiver: Connection) -> None:
    """Wait for a worker process, and raise the error that it has sent."""
    try:
        error = receiver.recv()
    except EOFError:
        process.join()
        raise DataError(f"a worker process ended with status {process.exitcode}: run the same command again") from None
    if error is not None:
        raise error


def _work(sender: Connection, job: _Job, device: str) -> None:
    try:
        job.run(device)
        sender.send(None)
    except Exception as error:
        sender.send(error)
