"""Shards -> samples: dealt to ranks and workers, shuffled from a seed, damage counted, and taken up again exactly.

webdataset opens the tar files, groups their files to samples and shuffles; what it leaves open (equal steps on every
rank, a position to go on from, a count of what was lost) is here and in :mod:`.batches`.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import webdataset as wds
from webdataset.tariterators import tarfile_samples

from framefold.data.shards.index import FEATURES, Index, Shard
from framefold.data.shards.sample import Sample, unpack
from framefold.data.shards.sources import opened, reason, resolve_shards
from framefold.errors import DataError

from .loader import Part, Stream
from .order import runs

Raw = dict[str, Any] | str  # files of a sample by extension, or why it is not there

BUFFER = {"videos": 256, FEATURES: 16}  # undecoded samples among which is shuffled; features take megabytes each


class ShardStream(Stream):
    """Samples out of webdataset shards.

    The shards of an epoch are put into one row, shuffled anew in every epoch; a reader opens only those that its part
    lies in. A damaged sample is left out and counted; a batch that would be empty gets the next whole sample, so that
    every rank keeps its number of steps.

    Args:
        shards: folder, tar files, globs, brace lists, URLs or commands, or what :func:`.sources.resolve` made of them.
        batch_size: samples in a batch of one rank.
        max_tokens: in place of a batch size: batches are runs of samples whose padded visual tokens (count times
            longest) stay within it. The same samples come together in every epoch; their order changes.
        tokens_per_frame: visual tokens of a video's frame, for max_tokens; features know their own number.
        shuffle: shuffle shards, and samples in a buffer; False keeps the order.
        buffer: undecoded samples in that buffer; None: 256 videos, or 16 videos' features.
        max_damaged: share of a rank's samples of an epoch that may be damaged before it ends with an error.

    Raises:
        DataError: no shards there, or a setting out of range.
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
            raise DataError(f"max_damaged must be a share, buffer and batch_size positive, got {settings}")
        self.index = resolve_shards(shards) if isinstance(shards, str) else shards
        self.rows = [_Units(shard, self._units(shard, max_tokens, tokens_per_frame)) for shard in self.index.shards]
        units = sum(len(row.counts) for row in self.rows)
        super().__init__(units, 1 if max_tokens else batch_size, **where)
        self.source = shards if isinstance(shards, str) else self.index.source
        self.shuffle, self.damage_allowed = shuffle, max_damaged * self.index.samples / self.world
        samples = buffer or BUFFER[self.index.kind]
        self.buffer = max(1, samples * units // self.index.samples)
        self.described = {"samples": self.index.samples, "max_tokens": max_tokens or 0, "buffer": self.buffer}

    def _units(self, shard: Shard, max_tokens: int | None, tokens_per_frame: int | None) -> list[int]:
        """How many samples each unit of a shard has."""
        if max_tokens is None:
            return [1] * shard.samples
        features = self.index.kind == FEATURES
        if not features and tokens_per_frame is None:
            raise DataError("max_tokens needs data.tokens_per_frame, the visual tokens of a frame in this host")
        if shard.samples and not shard.lengths:
            raise DataError(
                f"the index does not tell how long the samples of {shard.path} are, which max_tokens needs: write it "
                "again with 'framefold shards index'"
            )
        each = 1 if features else tokens_per_frame or 1
        return runs([length * each for length in shard.lengths], max_tokens, shard.path)

    def parts(self, epoch: int, places: range, sizes: list[int], wanted: Iterable[int]) -> Iterator[Part]:
        """See :class:`.batches.Stream`. A batch without a whole sample gets the next one, going round."""
        row = self._row(epoch, places)
        damage: list[str] = []
        asked, empty = set(wanted), 0  # empty: batches that wait for a whole sample
        for batch, size in enumerate(sizes):
            raws = [raw for unit in itertools.islice(row, size) for raw in unit]
            if batch not in asked and not empty:
                continue
            found = damage if batch in asked else []  # another worker counts it
            samples = _whole(raws[self.seat.part(raws)], found)
            if not samples:
                empty += batch in asked
                continue
            for _ in range(empty):
                yield samples[:1], _taken(damage)
            empty = 0
            if batch in asked:
                yield samples, _taken(damage)
        if empty:
            yield from ((self._any(epoch, places), _taken(damage)) for _ in range(empty))

    def _any(self, epoch: int, places: range) -> list[Sample]:
        """The first whole sample of a reader's part, or else of the epoch, alone."""
        for unit in itertools.chain(self._row(epoch, places), self._row(epoch, range(self.layout.units))):
            for raw in unit:
                if found := _whole([raw], []):
                    return found
        raise DataError(f"no sample in {self.source} could be read; 'framefold shards check' names the damage")

    def _row(self, epoch: int, places: range) -> Iterator[list[Raw]]:
        """Units at these places, each a list of undecoded samples."""
        rows = list(self.rows)
        if self.shuffle:
            random.Random(f"{self.seed}/{epoch}").shuffle(rows)
        units = self._pieces(rows, places)
        if not self.shuffle:
            return units
        return wds.detshuffle(self.buffer, self.buffer, self.seed * 10007, epoch - 1).run(units)

    def _pieces(self, rows: list[_Units], places: range) -> Iterator[list[Raw]]:
        ends = list(itertools.accumulate(len(row.counts) for row in rows))
        place = places.start
        while place < places.stop:
            at = bisect.bisect_right(ends, place % self.layout.units)
            first = place % self.layout.units - (ends[at] - len(rows[at].counts))
            count = min(len(rows[at].counts) - first, places.stop - place)
            yield from rows[at].read(first, count)
            place += count


@dataclass(frozen=True)
class _Units:
    """A shard cut into units of so many samples each."""

    shard: Shard
    counts: list[int]

    def read(self, first: int, count: int) -> Iterator[list[Raw]]:
        """Units first .. first + count - 1; samples that cannot be read are messages in their places."""
        errors: list[Exception] = []

        def note(error: Exception) -> bool:
            errors.append(error)
            return True

        start, counts = sum(self.counts[:first]), self.counts[first : first + count]
        raws = tarfile_samples([{"url": opened(self.shard.path)}], handler=note)
        found: Iterator[Raw] = itertools.islice(raws, start, start + sum(counts))
        for size in counts:
            unit = list(itertools.islice(found, size))
            yield unit + [f"a sample of {self.shard.path} is missing{reason(errors)}"] * (size - len(unit))


def _whole(raws: list[Raw], damage: list[str]) -> list[Sample]:
    """Decode samples; those that are damaged are left out, and what is wrong with them is added to the damage."""
    samples = []
    for raw in raws:
        if isinstance(raw, str):
            damage.append(raw)
            continue
        try:
            samples.append(unpack(raw["__key__"], raw))
        except DataError as error:
            damage.append(str(error))
    return samples


def _taken(damage: list[str]) -> tuple[str, ...]:
    """What was found damaged since the last call."""
    taken = tuple(damage)
    damage.clear()
    return taken
