"""Batches of samples in an order that can be taken up again anywhere.

The order (see :mod:`.order`) is a pure function of data, seed and layout, and the position in it is one integer, the
number of batches delivered so far, which is the same on every rank. So a checkpoint that holds rank 0's state alone, as
Lightning's do, is enough; and a run may go on with other numbers of workers and ranks in the middle of an epoch.
torchdata's StatefulDataLoader keeps one state a worker instead, which fits the same number of workers only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from framefold.data.shards.sample import Sample
from framefold.errors import DataError

from .order import Layout, seat

Part = tuple[list[Sample], tuple[str, ...]]  # samples of a batch, and what was found damaged on the way to them

RENEWED = {"readers", "lanes", "per_batch", "world"}  # of a layout: another run may have others and keep the order


class Batch:
    """Samples of one step, what was found damaged while they were read, and the error that ends the stream, if any.

    Not a dataclass, so that Lightning does not look into it: frames are to stay uint8 and on the CPU.
    """

    def __init__(self, samples: tuple[Sample, ...], damage: tuple[str, ...] = (), error: str = "") -> None:
        self.samples, self.damage, self.error = samples, damage, error

    def __len__(self) -> int:
        return len(self.samples)


class Stream(IterableDataset[Batch]):
    """Base of the streams: deals an epoch to ranks and loader workers.

    Every rank takes equally many steps, whatever the sizes of shards, and every sample comes once an epoch; only where
    there are too few to give each lane one a step, some come twice.

    Args:
        units: in an epoch, over all ranks.
        per_batch: units in a batch of one rank.
        seed: of the shuffling.
        rank, world: which of how many ranks reads.
        lanes: parts of an epoch that are read at the same time; None: one a rank. Runs on different numbers of ranks
            with equal lanes and equal global batches see the same batches.
        readers: parts of a lane that take turns, so that workers open different shards.

    Raises:
        DataError: a size that is not positive, or lanes that do not suit the number of ranks or the batch size.
    """

    def __init__(
        self,
        units: int,
        per_batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        lanes: int | None = None,
        readers: int = 1,
    ) -> None:
        lanes = lanes or world
        if per_batch < 1 or per_batch * world % lanes:
            raise DataError(f"a global batch of {per_batch} x {world} cannot be dealt evenly to {lanes} lanes")
        self.layout = Layout(units, per_batch * world // lanes, lanes, readers)
        self.seed, self.rank, self.world = seed, rank, world
        self.seat = seat(lanes, rank, world)
        self.delivered = 0  # batches that came before, over all epochs
        self.described: dict[str, int] = {}  # what else the order depends on
        self.source, self.damage_allowed = "", math.inf  # for the message; damaged samples of an epoch on this rank

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return self.layout.steps

    def arrange(self, layout: Layout) -> None:
        """Take over a layout, such as that of the run that is gone on with.

        Raises:
            DataError: its lanes do not suit the number of ranks.
        """
        self.layout, self.seat = layout, seat(layout.lanes, self.rank, self.world)

    def parts(self, epoch: int, places: range, sizes: list[int], wanted: Iterable[int]) -> Iterator[Part]:
        """This rank's samples of some of the consecutive batches that a reader makes of a lane.

        Args:
            places: in the row of the epoch, modulo units. sizes: units of each batch.
            wanted: numbers of batches, ascending; exactly these must be yielded, none of them empty.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._batches()
        except DataError as error:  # torch shuts down workers that raise slowly and buries the message in a traceback
            yield Batch((), error=str(error))

    def _batches(self) -> Iterator[Batch]:
        epoch, done = divmod(self.delivered, len(self))
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        steps = range(done + worker, len(self), workers)
        readers = self.layout.readers
        open_parts: dict[tuple[int, int], Iterator[Part]] = {}
        for step in steps:
            samples: list[Sample] = []
            damage: list[str] = []
            for number in self.seat.lanes:
                key = number, step % readers
                if key not in open_parts:
                    own = [s // readers for s in steps if s >= step and s % readers == step % readers]
                    open_parts[key] = self.parts(epoch, *self.layout.read_by(self.layout.lane(number), key[1]), own)
                part, problems = next(open_parts[key])
                samples += part
                damage += problems
            yield Batch(tuple(samples), tuple(damage))


def batch_ends(sizes: Iterable[int]) -> list[int]:
    ends, end = [], 0
    for size in sizes:
        end += size
        ends.append(end)
    return ends


class ResumableLoader(DataLoader[Batch]):
    """Delivers the batches of a stream, epoch after epoch; its state is the number of batches delivered.

    Args:
        workers: processes that read ahead; 0 reads in this one.
        same: deliver the first epoch every time, as validation does.
        timeout: seconds to wait for a batch from a worker.

    Raises:
        DataError: while iterating, if too much is damaged, or a worker does not answer in time.
    """

    def __init__(self, stream: Stream, workers: int = 0, same: bool = False, timeout: float = 600) -> None:
        waits = timeout if workers else 0
        super().__init__(stream, batch_size=None, num_workers=workers, collate_fn=_as_it_is, timeout=waits)
        self.stream, self.same, self._resumed = stream, same, False
        self.damaged = self.lost = 0  # samples over all epochs, and of this one

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self.same:
            self.stream.delivered = self.damaged = self.lost = 0
        elif not self._resumed:  # an epoch that was cut short is over
            self.stream.delivered = -(-self.stream.delivered // len(self.stream)) * len(self.stream)
            self.lost = 0
        return self._deliver(super().__iter__())

    def _deliver(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while (batch := self._next(batches)) is not None:
            if batch.error:
                raise DataError(batch.error)
            self._resumed = False
            self.stream.delivered += 1
            self._report(batch.damage)
            yield batch

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        try:
            return next(batches, None)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            raise DataError(
                f"no batch came from a loader worker for {self.timeout:g} seconds: a shard that is piped or "
                "downloaded may be stuck; raise data.timeout if it is only slow"
            ) from error

    def _report(self, damage: tuple[str, ...]) -> None:
        for text in damage:
            self.damaged, self.lost = self.damaged + 1, self.lost + 1
            if self.damaged <= 5:
                more = "; further ones are only counted" if self.damaged == 5 else ""
                warnings.warn(f"damaged sample skipped: {text}{more}", stacklevel=2)
        if self.lost > self.stream.damage_allowed:
            source = self.stream.source
            raise DataError(
                f"{self.lost} samples of {source} are damaged in this epoch, more than max_damaged allows "
                f"({self.stream.damage_allowed:g} a rank; last: {damage[-1]}); "
                f"'framefold shards check --shards {source}' names them all"
            )

    def state_dict(self) -> dict[str, Any]:
        """Position (epoch, batches of it delivered), damage so far, and what the order depends on."""
        epoch, done = divmod(self.stream.delivered, len(self.stream))
        return {"epoch": epoch, "done": done, "damaged": self.damaged, "lost": self.lost, "layout": self._layout()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last delivered batch in the same order; or else at the next epoch, with a warning."""
        epoch, done, before = state["epoch"], state["done"], state["layout"]
        if done and (problem := self._take_over(before)):
            warnings.warn(f"{problem}: going on with the next epoch", stacklevel=2)
            epoch, done = epoch + 1, 0
        self.stream.delivered = epoch * len(self.stream) + done
        self.damaged, self.lost, self._resumed = state["damaged"], state.get("lost", 0) if done else 0, True

    def _take_over(self, before: dict[str, int]) -> str:
        """Take over the layout of the run before; returns why that cannot be, "" if it can."""
        own = self._layout()
        if {k: v for k, v in before.items() if k not in RENEWED} != {k: v for k, v in own.items() if k not in RENEWED}:
            return f"the data layout changed from {before} to {own}"
        if before["per_batch"] * before["lanes"] != own["per_batch"] * own["lanes"]:
            fitting = before["per_batch"] * before["lanes"] / self.stream.world
            return f"the global batch changed (data.batch_size {fitting:g} on {self.stream.world} ranks would keep it)"
        kept = {name: before[name] for name in ("per_batch", "lanes", "readers")}
        try:
            self.stream.arrange(replace(self.stream.layout, **kept))
        except DataError as error:
            return str(error)
        return ""

    def _layout(self) -> dict[str, int]:
        layout = self.stream.layout
        sizes = {name: getattr(layout, name) for name in ("units", "per_batch", "lanes", "readers")}
        return {**sizes, **self.stream.described, "seed": self.stream.seed, "world": self.stream.world}


def _as_it_is(batch: Any) -> Any:
    return batch
