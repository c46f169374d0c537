"""How fast shards are read, and whether a loader worker keeps its memory: the verb ``framefold bench data``."""

from __future__ import annotations

import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import av
import psutil
import torch
from av.video.reformatter import VideoReformatter
from rich.progress import track
from webdataset.tariterators import tarfile_samples

from framefold.data.loading.loader import Batch, ResumableLoader
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards.index import FEATURES, VIDEOS
from framefold.data.shards.sources import opened, resolve_shards
from framefold.data.synthetic.write_shards import synth
from framefold.errors import ConfigError
from framefold.evaluation.metrics.timing import return_freed
from framefold.training.frozen_host.ask import answer_questions, encode_batch
from framefold.training.losses import loss_parts, total_loss
from framefold.training.module import CompressorModule

MIB = 2**20

BATCH = 8

EVERY = 100  # samples between two looks at a worker's memory


def bench_data(
    shards: str | None = None,
    features: str | None = None,
    host: str = "checkpoints/tinyhost",
    samples: int = 2000,
    repeats: int = 5,
    videos: int = 64,
    frames: list[int] = [64],  # noqa: B006 (read only; a list for the command line)
) -> dict[str, float]:
    """Print and return how fast shards are read: videos against bare PyAV, features against what training consumes.

    What is compared takes turns, and rates are medians over the turns.

    Args:
        shards: of videos; None: synthetic ones, made for the occasion.
        features: shards of what the host makes of videos; None: made of those.
        host: that trains on them: fila at a tenth of the tokens, one step at a time, on one process.
        samples: that a loader worker reads while its memory is watched.
        repeats: turns. videos: number, and frames: length, of the synthetic videos.

    Returns:
        ``decode_frames_per_s``, ``pyav_frames_per_s`` and ``decode_ratio`` (this process, one core);
        ``features_per_s`` (one loader worker), ``trained_per_s`` and ``feed_ratio``, samples a second;
        ``videos_growth_mib`` and ``features_growth_mib``, how much a worker's memory grew from the first tenth of the
        samples to the last, and ``worker_mib``, the most it had.

    Raises:
        ConfigError: a number that is not positive. DataError, HostError: no such shards or host.
    """
    if min(repeats, videos, *frames) < 1 or samples < 10 * EVERY:
        raise ConfigError(f"give at least {10 * EVERY} samples and one repeat and video, got {samples}, {repeats}")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framefold-bench-")))
        if shards is None:
            shards = str(scratch / "videos")
            synth(shards, videos, frames, shard_size=max(1, videos // 4))
        if features is None:
            from framefold.training.frozen_host.write_features import features as encode

            features = str(scratch / "features")
            encode(shards, host=host, out=features)
        results = _decoding(shards, repeats) | _feeding(features, host, repeats)
        for kind, source in ((VIDEOS, shards), (FEATURES, features)):
            results |= _memory(source, kind, samples)
    print(_table(results))
    return results


def _decoding(shards: str, repeats: int) -> dict[str, float]:
    """Frames a second, of the stream that training reads and of PyAV alone on the same bytes in memory."""
    clips = [
        raw["mp4"] for shard in resolve_shards(shards).shards for raw in tarfile_samples([{"url": opened(shard.path)}])
    ]

    def streamed() -> int:
        stream = ShardStream(shards, 1, shuffle=False)
        return sum(sample.length for batch in ResumableLoader(stream) for sample in batch.samples)

    def bare() -> int:
        return sum(map(_decode, clips))

    ours, theirs = _rates([streamed, bare], repeats, "decoding")
    return {"decode_frames_per_s": ours, "pyav_frames_per_s": theirs, "decode_ratio": ours / theirs}


def _decode(clip: bytes) -> int:
    """Number of frames; each is decoded to RGB with what PyAV has, as quickly as it can on one thread."""
    count, to_rgb = 0, VideoReformatter()
    with av.open(io.BytesIO(clip), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for frame in container.decode(stream):
            to_rgb.reformat(frame, format="rgb24").to_ndarray()
            count += 1
    return count


def _feeding(features: str, host: str, repeats: int) -> dict[str, float]:
    """Samples a second that one loader worker delivers, and that training takes."""
    loader = ResumableLoader(ShardStream(features, BATCH), workers=1)
    batches = list(loader)
    train = _trainer(host)

    def loaded() -> int:
        return sum(len(batch) for batch in loader)

    def trained() -> int:
        return sum(train(batch) for batch in batches[:4])

    feed, take = _rates([loaded, trained], repeats, "feeding")
    return {"features_per_s": feed, "trained_per_s": take, "feed_ratio": feed / take}


def _trainer(host: str) -> Callable[[Batch], int]:
    """A step of training, without anything around it; returns the number of samples."""
    module = CompressorModule("fila", 0.1, host=host)
    module.configure_model()
    optimizer = torch.optim.AdamW(module.compressor.parameters(), lr=1e-4)

    def step(batch: Batch) -> int:
        asked = encode_batch(module.host, batch.samples, module.compressor.needs_attention)
        parts = loss_parts(module.host, asked, answer_questions(module.host, module.compressor, asked), module.weights)
        total_loss(parts, module.weights).backward()
        optimizer.step()
        optimizer.zero_grad()
        return len(batch)

    return step


def _rates(works: list[Callable[[], int]], repeats: int, what: str) -> list[float]:
    """Units of work a second, the median over the turns; every work is done once a turn, and the first warms up."""
    times: list[list[float]] = [[] for _ in works]
    for turn in track(range(repeats + 1), what):
        for place in range(len(works)):
            number = (place + turn) % len(works)
            start = time.perf_counter()
            done = works[number]()
            if turn:
                times[number].append(done / (time.perf_counter() - start))
    return [statistics.median(rates) for rates in times]


def _memory(source: str, kind: str, samples: int) -> dict[str, float]:
    """How the memory of the only loader worker changes over so many samples, in MiB."""
    seen: list[float] = []
    index = resolve_shards(source)
    rounds = -(-samples // index.samples)  # in one epoch: every epoch has workers of its own
    loader = ResumableLoader(ShardStream(replace(index, shards=index.shards * rounds), 1), workers=1)
    return_freed()  # a worker is a fork of this process, and what this one has freed would hide a leak
    before = {child.pid for child in psutil.Process().children()}
    for number, _ in enumerate(track(itertools.islice(loader, samples), f"memory, {kind}", total=samples)):
        if number % EVERY == 0:
            workers = [child for child in psutil.Process().children() if child.pid not in before]
            seen.append(sum(worker.memory_info().rss for worker in workers) / MIB)
    first, last = seen[1 : max(2, len(seen) // 10 + 1)], seen[-max(1, len(seen) // 10) :]
    return {f"{kind}_growth_mib": statistics.median(last) - statistics.median(first), f"{kind}_worker_mib": max(seen)}


def _table(results: dict[str, float]) -> str:
    decode = "{decode_frames_per_s:,.0f} frames a second, bare PyAV {pyav_frames_per_s:,.0f}: {decode_ratio:.2f} of it"
    feed = (
        "{features_per_s:,.0f} samples a second from a worker, training takes {trained_per_s:,.1f}: {feed_ratio:.0f}x"
    )
    memory = "{{{0}_worker_mib:,.0f}} MiB at most, {{{0}_growth_mib:+.1f}} MiB from the first tenth to the last"
    lines = [f"videos    {decode}", f"features  {feed}"]
    lines += [f"worker    {kind}: {memory.format(kind)}" for kind in (VIDEOS, FEATURES)]
    return "\n".join(lines).format(**results)
