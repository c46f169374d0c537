"""The order of an epoch: a pure function of its layout, so that a position in it is one number.

A *unit* is what is shuffled as one: a sample, or a run of samples of a shard that fill a token budget together. The
units of an epoch lie in a row. *Lanes* are equal, consecutive parts of the row that are read at the same time: each
gives its part of every global batch. *Readers* are parts of a lane that take turns from step to step, so that loader
workers open different shards. Ranks serve lanes, and workers serve steps; their numbers do not change the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from framefold.errors import DataError


@dataclass(frozen=True)
class Layout:
    """What the order of an epoch depends on, apart from the seed.

    Attributes:
        units: in an epoch.
        per_batch: units that a lane gives to a global batch.
        lanes: parts of the row that are read at the same time.
        readers: parts of a lane that take turns.
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
        """Global batches in an epoch."""
        return -(-equal_part(self.units, self.lanes, 0)[1] // self.per_batch)

    def lane(self, number: int) -> range:
        """Places in the row (modulo units) that a lane reads: all lanes together read every unit once.

        Where batches cannot be made smaller to give a lane as many of them as the others have, it reads on into the
        next lane: at most one unit a lane comes twice, or more of them if there are fewer units than lanes.
        """
        first, count = equal_part(self.units, self.lanes, number)
        return range(first, first + max(count, self.steps))

    def edge(self, lane: range, step: int) -> int:
        """How many units of a lane come before a step; the last batches are smaller where it does not divide."""
        return min(step * self.per_batch, len(lane) - (self.steps - step))

    def read_by(self, lane: range, reader: int) -> tuple[range, list[int]]:
        """Places that a reader of a lane reads, and how many units each of its batches has.

        Batch k of reader r is the lane's part of step k * readers + r.
        """
        first, count = equal_part(self.steps, self.readers, reader)
        edges = [self.edge(lane, step) for step in range(first, first + count + 1)]
        sizes = [high - low for low, high in zip(edges, edges[1:], strict=False)]
        return lane[edges[0] : edges[-1]], sizes


@dataclass(frozen=True)
class Seat:
    """What a rank takes of every global batch: some whole lanes, or a piece of one."""

    lanes: range
    piece: int = 0
    pieces: int = 1

    def part(self, batch: Sequence[object]) -> slice:
        """Samples of a lane's batch that this rank takes; never none, so that all ranks take every step."""
        first, count = equal_part(len(batch), self.pieces, self.piece)
        return slice(first, first + count) if count else slice(0, 1)


def seat(lanes: int, rank: int, world: int) -> Seat:
    """The seat of a rank.

    Raises:
        DataError: lanes cannot be dealt evenly to so many ranks.
    """
    if lanes % world == 0:
        each = lanes // world
        return Seat(range(rank * each, (rank + 1) * each))
    if world % lanes == 0:
        pieces = world // lanes
        return Seat(range(rank // pieces, rank // pieces + 1), rank % pieces, pieces)
    raise DataError(f"{lanes} lanes cannot be dealt evenly to {world} ranks: let one number divide the other")


def equal_part(total: int, parts: int, part: int) -> tuple[int, int]:
    """Beginning and length of one of the nearly equal parts that a round of turns gives."""
    even, extra = divmod(total, parts)
    return part * even + min(part, extra), even + (part < extra)


def runs(lengths: Sequence[int], max_tokens: int, name: str = "") -> list[int]:
    """Cut the samples of a shard into runs whose padded size, count times longest, stays within a token budget.

    Args:
        lengths: tokens of each sample, in order. name: of the shard, for the message.

    Returns:
        How many samples each run has.

    Raises:
        DataError: a single sample is longer than the budget.
    """
    counts: list[int] = []
    longest = 0
    for place, length in enumerate(lengths):
        if length > max_tokens:
            raise DataError(
                f"sample {place} of {name} has {length} visual tokens, more than max_tokens = {max_tokens}: raise it, "
                "or store fewer frames"
            )
        grown = max(longest, length)
        if counts and (counts[-1] + 1) * grown <= max_tokens:
            counts[-1], longest = counts[-1] + 1, grown
        else:
            counts.append(1)
            longest = length
    return counts
