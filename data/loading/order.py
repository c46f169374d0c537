"""The order of an epoch, a pure function of its layout: one number describes a position in it.

A *unit* is shuffled as a whole. It is a sample, or several samples of a shard that fill a token budget together. The
units of an epoch form a sequence. *Lanes* are equal, consecutive parts of this sequence that are read in parallel; each
contributes a part of every global batch. *Readers* are parts of a lane that alternate from step to step, so that loader
workers open different shards. Ranks read lanes and workers read steps; the numbers of ranks and workers do not change
the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framefold.errors import DataError


@dataclass(frozen=True)
class Layout:
    """The numbers that determine the order of an epoch, together with the seed.

    Attributes:
        units: number of units in an epoch.
        per_batch: units that a lane contributes to a global batch.
        lanes: parts of the sequence that are read in parallel.
        readers: parts of a lane that alternate.

    Raises:
        DataError: a number is not positive.
    """

    units: int
    per_batch: int
    lanes: int = 1
    readers: int = 1

    def __post_init__(self) -> None:
        if min(self.units, self.per_batch, self.lanes, self.readers) < 1:
            raise DataError(f"units, batch size, lanes and readers must be positive, got {self}")

    @property
    def steps(self) -> int:
        """Number of global batches in an epoch."""
        return -(-equal_part(self.units, self.lanes, 0)[1] // self.per_batch)

    def lane(self, number: int) -> range:
        """Return the positions in the sequence (modulo units) that a lane reads; together, lanes read every unit once.

        A lane that is too short for one unit per step reads into the next lane. This repeats at most one unit per lane,
        or more if there are fewer units than lanes.
        """
        first, count = equal_part(self.units, self.lanes, number)
        return range(first, first + max(count, self.steps))

    def edge(self, lane: range, step: int) -> int:
        """Return the number of units of a lane before a step; the last batches may be smaller than the others."""
        return min(step * self.per_batch, len(lane) - (self.steps - step))

    def read_by(self, lane: range, reader: int) -> tuple[range, list[int]]:
        """Return the positions that a reader of a lane reads, and the number of units in each of its batches.

        Batch k of reader r is the lane's part of step k * readers + r.
        """
        first, count = equal_part(self.steps, self.readers, reader)
        edges = [self.edge(lane, step) for step in range(first, first + count + 1)]
        sizes = [high - low for low, high in zip(edges, edges[1:], strict=False)]
        return lane[edges[0] : edges[-1]], sizes


@dataclass(frozen=True)
class RankShare:
    """The part of every global batch that a rank reads: one or more complete lanes, or a piece of one lane."""

    lanes: range
    piece: int = 0
    pieces: int = 1

    def part(self, batch: Sequence[object]) -> slice:
        """Return the slice of a lane's batch for this rank; never empty, so that all ranks take part in every step."""
        first, count = equal_part(len(batch), self.pieces, self.piece)
        return slice(first, first + count) if count else slice(0, 1)


def rank_share(lanes: int, rank: int, world: int) -> RankShare:
    """Return the share of a rank.

    Raises:
        DataError: the lanes cannot be divided evenly among the ranks.
    """
    if lanes % world == 0:
        each = lanes // world
        return RankShare(range(rank * each, (rank + 1) * each))
    if world % lanes == 0:
        pieces = world // lanes
        return RankShare(range(rank // pieces, rank // pieces + 1), rank % pieces, pieces)
    raise DataError(f"{lanes} lanes cannot be divided evenly among {world} ranks: one number must divide the other")


def equal_part(total: int, parts: int, part: int) -> tuple[int, int]:
    """Return the start and the length of one of several parts whose lengths differ by at most one."""
    even, extra = divmod(total, parts)
    return part * even + min(part, extra), even + (part < extra)


def group_by_tokens(lengths: Sequence[int], max_tokens: int, name: str = "") -> list[int]:
    """Group consecutive samples so that their padded size, count times the longest, stays within a token budget.

    Args:
        lengths: tokens of each sample, in order.
        max_tokens: budget of a group.
        name: name of the shard, for the message.

    Returns:
        Number of samples in each group.

    Raises:
        DataError: a single sample exceeds the budget.
    """
    counts: list[int] = []
    longest = 0
    for number, length in enumerate(lengths):
        if length > max_tokens:
            raise DataError(
                f"sample {number} of {name} has {length} visual tokens, more than max_tokens = {max_tokens}: increase "
                "max_tokens, or store fewer frames"
            )
        grown = max(longest, length)
        if counts and (counts[-1] + 1) * grown <= max_tokens:
            counts[-1], longest = counts[-1] + 1, grown
        else:
            counts.append(1)
            longest = length
    return counts
