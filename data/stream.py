"""Shards -> samples: split by rank and worker, shuffled from a seed, damage counted, and taken up again exactly.

webdataset reads and groups the tar files and shuffles the samples; what it leaves open (equal steps on every rank,
a position to go on from, a count of what was lost) is here and in :mod:`.batches`.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator
from typing import Any

import webdataset as wds
from webdataset.tariterators import tarfile_samples

from .batches import Stream
from .errors import DataError
from .samples import Sample, unpack
from .shard_index import Shard, read_index


class ShardStream(Stream):
    """Samples out of webdataset shards.

    The shards of an epoch are put into one row, shuffled anew in every epoch; a worker opens only those that its slots
    lie in. A damaged sample is skipped, counted, and its slot given to the next whole one, so that every rank keeps its
    number of steps.

    Args:
        folder: that ``framefold shards`` wrote.
        shuffle: shuffle shards, and samples in a buffer of `buffer` samples (undecoded); False keeps the order.
        max_damaged: share of a worker's samples that may be damaged before the epoch ends with an error.

    Raises:
        DataError: no such folder, no shards in it, or a setting out of range.
    """

    def __init__(
        self,
        folder: str,
        batch_size: int,
        shuffle: bool = True,
        buffer: int = 256,
        max_damaged: float = 0.05,
        **where: int,
    ) -> None:
        if not 0 <= max_damaged <= 1 or buffer < 1:
            raise DataError(f"max_damaged must be a share and buffer positive, got {max_damaged} and {buffer}")
        self.shards = read_index(folder)
        super().__init__(sum(shard.samples for shard in self.shards), batch_size, **where)
        self.folder, self.shuffle, self.buffer, self.max_damaged = folder, shuffle, buffer, max_damaged

    def read(self, epoch: int, slots: range, skip: int) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """Slot q gets the first whole sample at or after place q of the row, which goes round."""
        damage = _Damage(self.folder, len(slots), self.max_damaged)
        place, pending = 0, 0  # pending: slots that wait for a whole sample
        while skip < len(slots) and (place < len(slots) or pending):
            progress = False
            for raw in self._row(epoch, slots, damage):
                takes = place < len(slots)  # a second round only fills what is still open
                place += takes
                if place <= skip:
                    progress = True
                    continue
                pending += takes
                try:
                    sample = unpack(raw["__key__"], raw)
                except DataError as error:
                    damage.add(1, str(error))
                    continue
                progress = True
                for _ in range(pending):
                    yield sample, damage.take()
                pending = 0
                if place == len(slots):
                    return
            if not progress:
                raise DataError(f"no sample in {self.folder} could be read; 'framefold shards check' names the damage")
            damage.closed = True

    def _row(self, epoch: int, slots: range, damage: _Damage) -> Iterator[dict[str, Any]]:
        """Undecoded samples of these slots; fewer where shards are damaged."""
        order = list(self.shards)
        if self.shuffle:
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
        row = self._pieces(order, slots, damage)
        if not self.shuffle:
            return row
        return wds.detshuffle(self.buffer, self.buffer, self.seed * 10007, epoch - 1).run(row)

    def _pieces(self, order: list[Shard], slots: range, damage: _Damage) -> Iterator[dict[str, Any]]:
        ends = list(itertools.accumulate(shard.samples for shard in order))
        slot = slots.start
        while slot < slots.stop:
            at = bisect.bisect_right(ends, slot % self.samples)
            first = slot % self.samples - (ends[at] - order[at].samples)
            count = min(order[at].samples - first, slots.stop - slot)
            yield from _piece(order[at], first, count, damage)
            slot += count


class _Damage:
    """Counts what was damaged in a worker's part of an epoch."""

    def __init__(self, folder: str, slots: int, share: float) -> None:
        self.folder, self.slots, self.share = folder, slots, share
        self.count, self.closed = 0, False
        self._new: list[str] = []

    def add(self, count: int, text: str) -> None:
        """Note so many more damaged samples; raises DataError above the threshold."""
        if self.closed:
            return
        self.count += count
        self._new += [text] * count
        if self.count > self.share * self.slots:
            raise DataError(
                f"{self.count} of {self.slots} samples in {self.folder} are damaged, more than max_damaged = "
                f"{self.share:g} allows (last: {text}); 'framefold shards check --shards {self.folder}' names them all"
            )

    def take(self) -> tuple[str, ...]:
        """What was noted since the last call."""
        new, self._new = self._new, []
        return tuple(new)


def _piece(shard: Shard, first: int, count: int, damage: _Damage) -> Iterator[dict[str, Any]]:
    """Samples first .. first + count - 1 of a shard, of which a damaged one gives fewer."""
    errors: list[Exception] = []

    def note(error: Exception) -> bool:
        errors.append(error)
        return True

    got = 0
    for raw in itertools.islice(tarfile_samples([{"url": shard.path}], handler=note), first, first + count):
        got += 1
        yield raw
    if got < count:
        why = f": {errors[0].args[0]}" if errors and errors[0].args else ""
        damage.add(count - got, f"{shard.path} misses {count - got} samples{why}")
