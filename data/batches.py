"""Batches of samples in an order that can be taken up again anywhere.

The order of an epoch is a pure function of (seed, epoch, rank, number of ranks, number of workers), and the position in
it is one integer, the number of batches delivered so far, which is the same on every rank. That makes resuming exact,
also where a framework keeps only rank 0's state, at the end of an epoch, and after training; states of single workers
give none of these.

Names: rank and worker as in torch; a *slot* is a place in the epoch's order, 0 .. samples - 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .errors import DataError
from .samples import Recipe, Sample


class Batch:
    """Samples of one step, what was found damaged while they were read, and the error that ends the stream, if any.

    Not a dataclass, so that Lightning does not look into it: frames are to stay uint8 and on the CPU.
    """

    def __init__(self, samples: tuple[Sample, ...], damage: tuple[str, ...] = (), error: str = "") -> None:
        self.samples, self.damage, self.error = samples, damage, error

    def __len__(self) -> int:
        return len(self.samples)


class Stream(IterableDataset[Batch]):
    """Base of the streams: splits an epoch into equal parts for ranks, and those into batches for workers.

    Every rank gets ceil(samples / world) slots, so that all ranks take the same number of steps; where that does not
    divide, the last rank repeats the first samples. A worker gets consecutive batches, so that it reads few shards.

    Args:
        samples: in an epoch, over all ranks.
        batch_size: videos in a batch of one rank.
        seed: of the shuffling.
        rank, world: which of how many ranks reads.

    Raises:
        DataError: a size that is not positive.
    """

    def __init__(self, samples: int, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        if samples < 1 or batch_size < 1:
            raise DataError(f"samples and batch_size must be positive, got {samples} and {batch_size}")
        self.samples, self.batch_size, self.seed, self.rank, self.world = samples, batch_size, seed, rank, world
        self.delivered = 0  # batches that came before, over all epochs

    def __len__(self) -> int:
        """Batches in an epoch of one rank."""
        return -(-self._slots // self.batch_size)

    @property
    def _slots(self) -> int:
        return -(-self.samples // self.world)

    def read(self, epoch: int, slots: range, skip: int) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """Samples of consecutive slots (modulo samples) with what was found damaged on the way to them.

        Args:
            skip: leave out that many at the beginning, cheaply; must yield exactly len(slots) - skip.
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
        worker = (worker + done) % workers  # the loader begins with worker 0, whose turn it need not be
        first, count = _share(len(self), workers, worker)
        skip = sum(_share(done, workers, worker)[1:])
        low, high = (min(batch * self.batch_size, self._slots) for batch in (first, first + count))
        base = self.rank * self._slots
        found = self.read(epoch, range(base + low, base + high), min(skip * self.batch_size, high - low))
        samples: list[Sample] = []
        damage: list[str] = []
        for slot, (sample, problems) in enumerate(found, low + skip * self.batch_size + 1):
            samples.append(sample)
            damage.extend(problems)
            if len(samples) == self.batch_size or slot == high:
                yield Batch(tuple(samples), tuple(damage))
                samples, damage = [], []


def _share(total: int, parts: int, part: int) -> tuple[int, int]:
    """Beginning and length of one of the nearly equal parts that a round of turns gives."""
    even, extra = divmod(total, parts)
    return part * even + min(part, extra), even + (part < extra)


class SyntheticStream(Stream):
    """Synthetic videos made while they are needed, new ones in every epoch unless `fresh` is False."""

    def __init__(self, recipe: Recipe, samples: int, batch_size: int, fresh: bool = True, **where: int) -> None:
        super().__init__(samples, batch_size, **where)
        self.recipe, self.fresh = recipe, fresh

    def read(self, epoch: int, slots: range, skip: int) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        offset = epoch * self.samples if self.fresh else 0
        for slot in slots[skip:]:
            yield self.recipe.sample(offset + slot % self.samples), ()


class ResumableLoader(DataLoader[Batch]):
    """Delivers the batches of a stream, epoch after epoch; its state is the number of batches delivered.

    Args:
        workers: processes that read ahead; 0 reads in this one.
        same: deliver the first epoch every time, as validation does.

    Raises:
        DataError: while iterating, if too much is damaged.
    """

    def __init__(self, stream: Stream, workers: int = 0, same: bool = False) -> None:
        super().__init__(stream, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
        self.stream, self.same, self.damaged, self._resumed = stream, same, 0, False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self.same:
            self.stream.delivered = self.damaged = 0
        elif not self._resumed:  # an epoch that was cut short is over
            self.stream.delivered = -(-self.stream.delivered // len(self.stream)) * len(self.stream)
        return self._deliver(super().__iter__())

    def _deliver(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if batch.error:
                raise DataError(batch.error)
            self._resumed = False
            self.stream.delivered += 1
            self._report(batch.damage)
            yield batch

    def _report(self, damage: tuple[str, ...]) -> None:
        for text in damage:
            self.damaged += 1
            if self.damaged <= 5:
                more = "; further ones are only counted" if self.damaged == 5 else ""
                warnings.warn(f"damaged sample skipped: {text}{more}", stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """Position (epoch, batches of it delivered), damage so far, and what the order depends on."""
        epoch, done = divmod(self.stream.delivered, len(self.stream))
        return {"epoch": epoch, "done": done, "damaged": self.damaged, "layout": self._layout()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last delivered batch; with another layout, at the next epoch (with a warning)."""
        epoch, done = state["epoch"], state["done"]
        if done and state["layout"] != self._layout():
            change = f"from {state['layout']} to {self._layout()}"
            warnings.warn(f"the data layout changed {change}: going on with the next epoch", stacklevel=2)
            epoch, done = epoch + 1, 0
        self.stream.delivered = epoch * len(self.stream) + done
        self.damaged, self._resumed = state["damaged"], True

    def _layout(self) -> dict[str, int]:
        names = ("samples", "batch_size", "seed", "world")
        return {name: getattr(self.stream, name) for name in names} | {"workers": self.num_workers}


def _as_it_is(batch: Any) -> Any:
    return batch
