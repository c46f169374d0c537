"""Samples from shards: distributed over ranks and workers, shuffled from a seed, resumable, with damage counted.

webdataset opens the tar files, groups their files into samples and shuffles them. This module and :mod:`.loader` add
equal numbers of steps on all ranks, a position from which to resume, and the count of damaged samples.
"""

from __future__ import annotations

import bisect
import itertools
import json
import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import webdataset as wds

from framefold.data.shards.index import FEATURES, Index, KeyFilter, Shard
from framefold.data.shards.sample import Sample, unpack_sample
from framefold.data.shards.sources import error_reason, read_samples, resolve_shards
from framefold.errors import DataError

from .loader import PartialBatch, SampleStream
from .order import group_by_tokens

RawSample = dict[str, Any] | str  # the files of a sample by extension, or why it is missing

DEFAULT_BUFFER = {"videos": 256, FEATURES: 16}  # undecoded samples; those with features take megabytes each


class ShardStream(SampleStream):
    """Samples from webdataset shards.

    The shards form one sequence, which is shuffled in every epoch. A reader opens only the shards that its part covers.
    A damaged sample is skipped and counted. A batch that would be empty receives the next intact sample instead, so
    that every rank keeps its number of steps.

    Args:
        shards: folder, tar files, globs, brace lists, URLs or commands, or their resolved
            :class:`~framefold.data.shards.index.Index`.
        batch_size: samples in a batch of one rank.
        max_tokens: replaces the batch size: a batch is a group of samples whose padded visual tokens (count times the
            longest) stay within it. The same samples form a batch in every epoch; the order of batches changes.
        tokens_per_frame: visual tokens of a video frame, required with max_tokens for videos; features store theirs.
        shuffle: shuffle the shards, and samples within a buffer; False keeps the order.
        buffer: undecoded samples in that buffer; None means 256 videos, or the features of 16 videos.
        max_damaged: fraction of a rank's samples of an epoch that may be damaged before an error is raised.

    Raises:
        DataError: there are no shards, or a setting is out of range.
    """

    def __init__(
        self,
        shards: str | Index,
        batch_size: int = 1,
        *,
        max_tokens: int | None = None,
        tokens_per_frame: int | None = None,
        shuffle: bool = True,
        buffer: int | None = None,
        max_damaged: float = 0.05,
        **where: Any,
    ) -> None:
        if not 0 <= max_damaged <= 1 or (buffer is not None and buffer < 1) or batch_size < 1:
            settings = f"{max_damaged}, {buffer} and {batch_size}"
            raise DataError(f"max_damaged must be between 0 and 1, buffer and batch_size positive, got {settings}")
        self.index = resolve_shards(shards) if isinstance(shards, str) else shards
        self.shards = [
            _ShardUnits(shard, self._units(shard, max_tokens, tokens_per_frame), self.index.keys)
            for shard in self.index.shards
        ]
        units = sum(len(shard.counts) for shard in self.shards)
        super().__init__(units, 1 if max_tokens else batch_size, **where)
        self.source = shards if isinstance(shards, str) else self.index.source
        self.shuffle, self.max_damaged_samples = shuffle, max_damaged * self.index.samples / self.world
        samples = buffer or DEFAULT_BUFFER[self.index.kind]
        self.buffer = max(1, samples * units // self.index.samples)
        names: list[Any] = [[Path(shard.path).name, shard.samples] for shard in self.index.shards]
        names += [] if self.index.keys is None else [repr(self.index.keys)]
        self.order_settings = {"samples": self.index.samples, "max_tokens": max_tokens or 0, "buffer": self.buffer}
        self.order_settings["data"] = zlib.crc32(json.dumps(names).encode())

    def _units(self, shard: Shard, max_tokens: int | None, tokens_per_frame: int | None) -> list[int]:
        """Return the number of samples in each unit of a shard."""
        if max_tokens is None:
            return [1] * shard.samples
        features = self.index.kind == FEATURES
        if not features and tokens_per_frame is None:
            raise DataError("max_tokens requires data.tokens_per_frame, the visual tokens of a frame in this host")
        if shard.samples and not shard.lengths:
            raise DataError(
                f"the index has no lengths for the samples of {shard.path}, which max_tokens requires: write it "
                "again with 'framefold shards index'"
            )
        tokens = 1 if features else tokens_per_frame or 1
        return group_by_tokens([length * tokens for length in shard.lengths], max_tokens, shard.path)

    def partial_batches(
        self, epoch: int, positions: range, sizes: list[int], numbers: Iterable[int]
    ) -> Iterator[PartialBatch]:
        """See :meth:`.SampleStream.partial_batches`; a batch with only damaged samples receives the next intact one."""
        units = self._units_at(epoch, positions)
        damage: list[str] = []
        requested, empty = set(numbers), 0  # empty: number of requested batches that have no intact sample yet
        for batch, size in enumerate(sizes):
            raws = [raw for unit in itertools.islice(units, size) for raw in unit]
            if batch not in requested and not empty:
                continue
            messages = damage if batch in requested else []  # damage in other batches is counted by another worker
            samples = _decode_intact(raws[self.share.part(raws)], messages)
            if not samples:
                empty += batch in requested
                continue
            for _ in range(empty):
                yield samples[:1], _take_all(damage)
            empty = 0
            if batch in requested:
                yield samples, _take_all(damage)
        if empty:
            yield from ((self._any_intact_sample(epoch, positions), _take_all(damage)) for _ in range(empty))

    def samples(self) -> Iterator[Sample]:
        """See :meth:`.SampleStream.samples`."""
        for unit in self._read_units(self.shards, range(self.layout.units)):
            yield from _decode_intact(unit, [])

    def _any_intact_sample(self, epoch: int, positions: range) -> list[Sample]:
        """Return a list with the first intact sample of a reader's part, or else of the epoch."""
        for unit in itertools.chain(self._units_at(epoch, positions), self._units_at(epoch, range(self.layout.units))):
            for raw in unit:
                if samples := _decode_intact([raw], []):
                    return samples
        raise DataError(f"no sample in {self.source} could be read; 'framefold shards check' names the damage")

    def _units_at(self, epoch: int, positions: range) -> Iterator[list[RawSample]]:
        """Yield the units at positions of the sequence, each a list of undecoded samples."""
        shards = list(self.shards)
        if self.shuffle:
            random.Random(f"{self.seed}/{epoch}").shuffle(shards)
        units = self._read_units(shards, positions)
        if not self.shuffle:
            return units
        return wds.detshuffle(self.buffer, self.buffer, self.seed * 10007, epoch - 1).run(units)

    def _read_units(self, shards: list[_ShardUnits], positions: range) -> Iterator[list[RawSample]]:
        ends = list(itertools.accumulate(len(shard.counts) for shard in shards))
        position = positions.start
        while position < positions.stop:
            number = bisect.bisect_right(ends, position % self.layout.units)
            counts = shards[number].counts
            first = position % self.layout.units - (ends[number] - len(counts))
            count = min(len(counts) - first, positions.stop - position)
            yield from shards[number].read(first, count)
            position += count


@dataclass(frozen=True)
class _ShardUnits:
    """A shard and the number of samples in each of its units."""

    shard: Shard
    counts: list[int]
    keys: KeyFilter | None = None

    def read(self, first: int, count: int) -> Iterator[list[RawSample]]:
        """Yield units first to first + count - 1; a sample that cannot be read is replaced by a message."""
        errors: list[Exception] = []

        def record(error: Exception) -> bool:
            errors.append(error)
            return True

        start, counts = sum(self.counts[:first]), self.counts[first : first + count]
        raws = read_samples(self.shard.path, record)
        if (keys := self.keys) is not None:
            raws = (raw for raw in raws if keys.accepts(str(raw["__key__"])))
        readable: Iterator[RawSample] = itertools.islice(raws, start, start + sum(counts))
        for size in counts:
            unit = list(itertools.islice(readable, size))
            yield unit + [f"a sample of {self.shard.path} is missing{error_reason(errors)}"] * (size - len(unit))


def _decode_intact(raws: list[RawSample], damage: list[str]) -> list[Sample]:
    """Decode samples; skip damaged ones and append a message for each of them to `damage`."""
    samples = []
    for raw in raws:
        if isinstance(raw, str):
            damage.append(raw)
            continue
        try:
            samples.append(unpack_sample(raw["__key__"], raw))
        except DataError as error:
            damage.append(str(error))
    return samples


def _take_all(damage: list[str]) -> tuple[str, ...]:
    """Return all messages and clear the list."""
    taken = tuple(damage)
    damage.clear()
    return taken
