"""Batches of samples in an order that can be resumed at any batch.

The order (see :mod:`.order`) is a pure function of data, seed and layout. The position in it is one integer, the number
of batches delivered so far, which is the same on every rank. Therefore a checkpoint that contains only the state of
rank 0, like Lightning's, is sufficient, and a run may resume in the middle of an epoch with other numbers of workers
and ranks. The StatefulDataLoader of torchdata stores one state per worker instead, so it needs the same number of
workers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from framefold.data.shards.sample import Sample
from framefold.errors import DataError
from framefold.warning_types import FramefoldWarning

from .order import Layout, rank_share
from .workers import answer_only_parent, check_open_files, name_open_files

PartialBatch = tuple[list[Sample], tuple[str, ...]]  # samples, and a message for each damaged sample that was skipped

# Entries of a saved layout that may differ in the resuming run without a change of the order.
CHANGEABLE = {"readers", "lanes", "per_batch", "world"}
NEWER = {"data"}  # entries that older checkpoints lack


class Batch:
    """Samples of one step.

    It is not a dataclass, so that Lightning does not move or cast its tensors: frames stay uint8 and on the CPU.

    Attributes:
        samples: the samples.
        damage: a message for each damaged sample that was skipped.
        error: message of the error that ended the stream, or "".
    """

    def __init__(self, samples: tuple[Sample, ...], damage: tuple[str, ...] = (), error: str = "") -> None:
        self.samples, self.damage, self.error = samples, damage, error

    def __len__(self) -> int:
        return len(self.samples)


class SampleStream(IterableDataset[Batch]):
    """Base class of sample streams: distributes the samples of an epoch over ranks and loader workers.

    Every rank takes the same number of steps, and every sample is read once per epoch. Only if there are too few
    samples for one per lane and step are some read twice.

    Args:
        units: units in an epoch, over all ranks (see :mod:`.order`).
        per_batch: units in a batch of one rank.
        seed: seed of the shuffling.
        rank: number of this rank.
        world: number of ranks.
        lanes: parts of an epoch that are read in parallel; None means one per rank. Runs with equal lanes and equal
            global batches see the same batches on any number of ranks.
        readers: parts of a lane that alternate, so that workers open different shards.

    Raises:
        DataError: a size is not positive, or the lanes do not fit the number of ranks or the batch size.
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
        self.has_fixed_lanes, lanes = lanes is not None, lanes or world
        if per_batch < 1 or per_batch * world % lanes:
            raise DataError(f"a global batch of {per_batch} x {world} cannot be divided evenly among {lanes} lanes")
        self.layout = Layout(units, per_batch * world // lanes, lanes, readers)
        self.seed, self.rank, self.world = seed, rank, world
        self.share = rank_share(lanes, rank, world)
        self.delivered = 0  # batches delivered so far, over all epochs
        self.order_settings: dict[str, int] = {}  # of a subclass; the order depends on them
        self.source = ""  # what the user named, for messages
        self.max_damaged_samples = math.inf  # in an epoch on this rank

    def __len__(self) -> int:
        """Number of batches in an epoch, the same on every rank."""
        return self.layout.steps

    def set_layout(self, layout: Layout) -> None:
        """Use another layout, for example the one of the run that is resumed.

        Raises:
            DataError: its lanes do not fit the number of ranks.
        """
        self.layout, self.share = layout, rank_share(layout.lanes, self.rank, self.world)

    def partial_batches(
        self, epoch: int, positions: range, sizes: list[int], numbers: Iterable[int]
    ) -> Iterator[PartialBatch]:
        """Yield this rank's samples of some of the consecutive batches of one reader of a lane.

        Args:
            epoch: number of the epoch.
            positions: positions of the reader in the sequence of the epoch, modulo units.
            sizes: units in each of its batches.
            numbers: ascending numbers of the batches to yield; none of them may be empty.
        """
        raise NotImplementedError

    def samples(self) -> Iterator[Sample]:
        """Yield the intact samples in the order in which they are stored, the same at any position."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._batches()
        except DataError as error:  # an exception in a worker would hide the message in a traceback
            yield Batch((), error=str(error))

    def _batches(self) -> Iterator[Batch]:
        epoch, done = divmod(self.delivered, len(self))
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        steps = range(done + worker, len(self), workers)
        readers = self.layout.readers
        open_readers: dict[tuple[int, int], Iterator[PartialBatch]] = {}
        for step in steps:
            samples: list[Sample] = []
            damage: list[str] = []
            for lane in self.share.lanes:
                key = lane, step % readers
                if key not in open_readers:
                    numbers = [s // readers for s in steps if s >= step and s % readers == step % readers]
                    positions, sizes = self.layout.read_by(self.layout.lane(lane), key[1])
                    open_readers[key] = self.partial_batches(epoch, positions, sizes, numbers)
                part, problems = next(open_readers[key])
                samples += part
                damage += problems
            if info:
                check_open_files(samples, info.num_workers)
            yield Batch(tuple(samples), tuple(damage))


class ResumableLoader(DataLoader[Batch]):
    """Delivers the batches of a stream, epoch after epoch; its state is the number of batches delivered.

    Args:
        stream: where samples come from.
        workers: processes that read ahead; 0 reads in this process.
        restart: deliver the first epoch at every iteration, as validation and overfitting require.
        timeout: seconds to wait for a batch from a worker.

    Attributes:
        damaged: damaged samples so far, over all epochs.
        lost: damaged samples in the current epoch.

    Raises:
        DataError: during iteration, if too many samples are damaged or a worker does not respond in time.
    """

    def __init__(self, stream: SampleStream, workers: int = 0, restart: bool = False, timeout: float = 600) -> None:
        waits = timeout if workers else 0
        super().__init__(
            stream,
            batch_size=None,
            num_workers=workers,
            collate_fn=_identity,
            timeout=waits,
            worker_init_fn=answer_only_parent,
        )
        self.stream, self.restart, self._resumed = stream, restart, False
        self.damaged = self.lost = 0
        self.on_wait: Callable[[bool], Any] = bool  # called with True before waiting for a batch, then with False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self.restart and not self._resumed:
            self.stream.delivered = self.damaged = self.lost = 0
        elif not self._resumed:  # a truncated epoch is not continued
            self.stream.delivered = -(-self.stream.delivered // len(self.stream)) * len(self.stream)
            self.lost = 0
        with self._name_open_files():  # workers are started with pipes
            return self._deliver(super().__iter__())

    @property
    def is_at_epoch_start(self) -> bool:
        """Whether no batch of the current epoch has been delivered."""
        return self.stream.delivered % len(self.stream) == 0

    def end_epoch(self) -> None:
        """Start the next iteration with another epoch, even if the current one was resumed in the middle."""
        self._resumed = False

    def continue_from(self, other: ResumableLoader) -> None:
        """Take the position, the layout and the counts of damage of a loader that this one replaces."""
        self.stream.set_layout(other.stream.layout)
        self.stream.delivered, self._resumed = other.stream.delivered, other._resumed
        self.damaged, self.lost = other.damaged, other.lost

    def _deliver(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while (batch := self._next(batches)) is not None:
            if batch.error:
                raise DataError(batch.error)
            self._resumed = False
            self.stream.delivered += 1
            self.report_damage(batch.damage)
            yield batch

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        try:
            self.on_wait(True)
            with self._name_open_files():
                batch = next(batches, None)
            self.on_wait(False)
            return batch
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            raise DataError(
                f"no batch came from a loader worker for {self.timeout:g} seconds: a pipe or a download may be "
                "stuck; increase data.timeout if it is only slow"
            ) from error

    def _name_open_files(self) -> AbstractContextManager[None]:
        layout = self.stream.layout
        return name_open_files(self.num_workers, layout.per_batch * layout.lanes // self.stream.world)

    def report_damage(self, damage: Sequence[str]) -> None:
        """Count damaged samples and warn of the first ones.

        Args:
            damage: a message for each of them.

        Raises:
            DataError: the stream allows fewer in an epoch.
        """
        for text in damage:
            self.damaged, self.lost = self.damaged + 1, self.lost + 1
            if self.damaged <= 5:
                more = "; further damaged samples are only counted" if self.damaged == 5 else ""
                warnings.warn(f"damaged sample skipped: {text}{more}", stacklevel=2)
        if self.lost > self.stream.max_damaged_samples:
            source = self.stream.source
            raise DataError(
                f"{self.lost} samples of {source} are damaged in this epoch, more than max_damaged allows "
                f"({self.stream.max_damaged_samples:g} per rank; last: {damage[-1]}); "
                f"'framefold shards check --shards {source}' lists all of them"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the position (epoch, batches of it delivered), the damage so far, and the layout."""
        epoch, done = divmod(self.stream.delivered, len(self.stream))
        return {"epoch": epoch, "done": done, "damaged": self.damaged, "lost": self.lost, "layout": self._layout()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the last delivered batch; if the order has changed, warn and resume at the next epoch."""
        epoch, done, saved = state["epoch"], state["done"], state["layout"]
        if done and (problem := self._adopt_layout(saved)):
            warnings.warn(f"{problem}: resuming at the next epoch", FramefoldWarning, stacklevel=2)
            epoch, done = epoch + 1, 0
        self.stream.delivered = epoch * len(self.stream) + done
        self.damaged, self.lost, self._resumed = state["damaged"], state.get("lost", 0) if done else 0, True

    def _adopt_layout(self, saved: dict[str, int]) -> str:
        """Use the layout of the resumed run; return why that is impossible, or ""."""
        own = self._layout()
        names = sorted((saved.keys() | own.keys()) - CHANGEABLE - (NEWER - saved.keys()))
        differing = [name for name in names if saved.get(name) != own.get(name)]
        if differing:
            return f"the data layout changed ({', '.join(f'{x} {saved.get(x)} -> {own.get(x)}' for x in differing)})"
        global_batch = saved["per_batch"] * saved["lanes"]
        if global_batch != own["per_batch"] * own["lanes"]:
            fitting, world = global_batch / self.stream.world, self.stream.world
            return f"the global batch changed (data.batch_size {fitting:g} on {world} ranks would keep it)"
        if self.stream.has_fixed_lanes and saved["lanes"] != own["lanes"]:
            return f"data.lanes changed from {saved['lanes']} to {own['lanes']}"
        kept = {name: saved[name] for name in ("per_batch", "lanes", "readers")}
        try:
            self.stream.set_layout(replace(self.stream.layout, **kept))
        except DataError as error:
            return str(error)
        return ""

    def _layout(self) -> dict[str, int]:
        layout = self.stream.layout
        sizes = {name: getattr(layout, name) for name in ("units", "per_batch", "lanes", "readers")}
        return {**sizes, **self.stream.order_settings, "seed": self.stream.seed, "world": self.stream.world}


def _identity(batch: Any) -> Any:
    return batch
