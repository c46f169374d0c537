"""Throughput of reading shards, and memory of a loader worker over time: the command ``framefold bench data``."""

from __future__ import annotations

import io
import itertools
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import av
import torch
from av.video.reformatter import VideoReformatter

from framefold.data.loading.loader import Batch, ResumableLoader
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards.index import FEATURES, VIDEOS
from framefold.data.shards.sources import read_samples, resolve_shards
from framefold.data.synthetic.write_shards import synth
from framefold.errors import ConfigError
from framefold.evaluation.metrics.memory import ChildMemory, trim_heap
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.progress import progress_bar
from framefold.training.frozen_host.batch import answer_questions, encode_batch
from framefold.training.frozen_host.locate import find_host
from framefold.training.losses import compute_losses, total_loss
from framefold.training.module import CompressorModule
from framefold.training.optimizer import weights_at

MIB = 2**20

BATCH = 8

EVERY = 100  # samples between two readings of a worker's memory


def bench_data(
    shards: str | None = None,
    features: str | None = None,
    host: str = "checkpoints/tinyhost",
    compressor: str = "fila",
    samples: int = 2000,
    repeats: int = 5,
    videos: int = 64,
    frames: list[int] = [64],  # noqa: B006 (read only; a list for the command line)
) -> dict[str, float]:
    """Measure how fast shards are read: videos compared with bare PyAV, features compared with their use in training.

    What is compared alternates, and rates are medians over the turns.

    Args:
        shards: shards of videos; by default synthetic ones in a temporary folder.
        features: shards of features; by default those that the host computes from the videos.
        host: host to train in front of, one step at a time, in one process.
        compressor: trainable compressor that is trained, at a tenth of the tokens.
        samples: number of samples that a loader worker reads while its memory is recorded.
        repeats: number of turns.
        videos: number of synthetic videos.
        frames: lengths of the synthetic videos.

    Returns:
        ``decode_frames_per_s``, ``pyav_frames_per_s`` and ``decode_ratio`` (this process, one core);
        ``features_per_s`` (one loader worker), ``trained_per_s`` and ``feed_ratio``, in samples per second;
        ``videos_growth_mib`` and ``features_growth_mib``, the growth of a worker's memory from the first tenth of the
        samples to the last; ``videos_worker_mib`` and ``features_worker_mib``, its maximum.

    Raises:
        ConfigError: a number is not positive, or there are too few samples.
        DataError, HostError: there are no such shards, or no such host.
    """
    if min(repeats, videos, *frames) < 1 or samples < 10 * EVERY:
        raise ConfigError(
            f"give at least {10 * EVERY} samples, and at least one repeat, video and frame; got {samples} samples, "
            f"{repeats} repeats, {videos} videos and frames {frames}"
        )
    find_host(host)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framefold-bench-")))
        if shards is None:
            shards = str(scratch / "videos")
            synth(shards, videos, frames, shard_size=max(1, videos // 4))
        if features is None:
            from framefold.training.frozen_host.write_features import features as write_features

            features = str(scratch / "features")
            write_features(shards, host=host, out=features)
        results = _decoding(shards, repeats) | _feeding(features, host, compressor, repeats)
        for kind, source in ((VIDEOS, shards), (FEATURES, features)):
            results |= _memory(source, kind, samples)
    print(_table(results))
    return results


def _decoding(shards: str, repeats: int) -> dict[str, float]:
    """Frames per second of the stream that training reads, and of PyAV alone on the same bytes in memory."""
    clips = [files["mp4"] for shard in resolve_shards(shards).shards for files in read_samples(shard.path)]

    def stream() -> int:
        loader = ResumableLoader(ShardStream(shards, 1, shuffle=False))
        return sum(sample.length for batch in loader for sample in batch.samples)

    def bare() -> int:
        return sum(map(_decode, clips))

    ours, theirs = _rates([stream, bare], repeats, "decoding")
    return {"decode_frames_per_s": ours, "pyav_frames_per_s": theirs, "decode_ratio": ours / theirs}


def _decode(clip: bytes) -> int:
    """Decode all frames to RGB on one thread, as fast as PyAV can; return their number."""
    count, to_rgb = 0, VideoReformatter()
    with av.open(io.BytesIO(clip), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for frame in container.decode(stream):
            to_rgb.reformat(frame, format="rgb24").to_ndarray()
            count += 1
    return count


def _feeding(features: str, host: str, compressor: str, repeats: int) -> dict[str, float]:
    """Samples per second that one loader worker delivers, and that training consumes."""
    loader = ResumableLoader(ShardStream(features, BATCH), workers=1)
    batches = list(loader)
    train = _training_step(host, compressor)

    def load() -> int:
        return sum(len(batch) for batch in loader)

    def train_some() -> int:
        return sum(train(batch) for batch in batches[:4])

    loaded, trained = _rates([load, train_some], repeats, "feeding")
    return {"features_per_s": loaded, "trained_per_s": trained, "feed_ratio": loaded / trained}


def _training_step(host: str, compressor: str) -> Callable[[Batch], int]:
    """Return a bare training step, which returns its number of samples."""
    module = CompressorModule(compressor, 0.1, host=host)
    module.configure_model()
    optimizer = torch.optim.AdamW(module.compressor.parameters(), lr=1e-4)

    def step(batch: Batch) -> int:
        encoded = encode_batch(module.host, batch.samples, module.compressor.needs_attention)
        answers = answer_questions(module.host, module.compressor, encoded)
        weights = weights_at(module.loss_weights, 0.0)
        parts = compute_losses(module.host, encoded, answers, weights)
        total_loss(parts, weights).backward()
        optimizer.step()
        optimizer.zero_grad()
        return len(batch)

    return step


def _rates(works: list[Callable[[], int]], repeats: int, what: str) -> list[float]:
    """Units of work per second of each function, median over the turns after a warm-up."""
    rates: list[list[float]] = [[] for _ in works]
    for turn in progress_bar(range(repeats + 1), what, unit="turn"):
        for position in range(len(works)):
            number = (position + turn) % len(works)
            with Stopwatch() as watch:
                units = works[number]()
            if turn:
                rates[number].append(units / watch.seconds)
    return [statistics.median(values) for values in rates]


def _memory(source: str, kind: str, samples: int) -> dict[str, float]:
    """Growth and maximum of the memory of the only loader worker while it reads samples, in MiB."""
    readings: list[float] = []
    index = resolve_shards(source)
    rounds = -(-samples // index.samples)  # within one epoch, since every epoch starts new workers
    loader = ResumableLoader(ShardStream(replace(index, shards=index.shards * rounds), 1), workers=1)
    trim_heap()  # a worker is a fork of this process, whose freed memory would hide a leak
    workers = ChildMemory()
    stream = progress_bar(itertools.islice(loader, samples), f"memory, {kind}", total=samples, unit="sample")
    for number, _ in enumerate(stream):
        if number % EVERY == 0:
            readings.append(workers.resident_bytes() / MIB)
    tenth = len(readings) // 10
    first, last = readings[1 : max(2, tenth + 1)], readings[-max(1, tenth) :]
    growth = statistics.median(last) - statistics.median(first)
    return {f"{kind}_growth_mib": growth, f"{kind}_worker_mib": max(readings)}


def _table(results: dict[str, float]) -> str:
    decode = (
        "{decode_frames_per_s:,.0f} frames per second, {decode_ratio:.2f} times bare PyAV ({pyav_frames_per_s:,.0f})"
    )
    feed = (
        "{features_per_s:,.0f} samples per second from a worker, {feed_ratio:.0f} times the use in training"
        " ({trained_per_s:,.1f})"
    )
    memory = "{{{0}_worker_mib:,.0f}} MiB at most, {{{0}_growth_mib:+.1f}} MiB from the first tenth to the last"
    lines = [f"videos    {decode}", f"features  {feed}"]
    lines += [f"worker    {kind}: {memory.format(kind)}" for kind in (VIDEOS, FEATURES)]
    return "\n".join(lines).format(**results)
