"""Running the cells of an ablation, alone or together with other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from filelock import FileLock

from framefold.evaluation.results.cells import FOLDER, Outcome, read_cell, write_cell
from framefold.evaluation.results.provenance import now
from framefold.evaluation.results.settings import REPORT, Settings
from framefold.files import remove_leftovers
from framefold.training.frozen_host.host import Host

from .ask import evaluate_questions
from .batches import Batches, HeldOutBatch
from .cost import VIDEOS, Meter
from .feature_cache import FeatureCache
from .methods import AnyMethod
from .work_queue import progress_bar, work_off

LOCKS = ".locks"


@dataclass(frozen=True)
class Cell:
    """A row at a budget with a seed."""

    row: AnyMethod
    settings: Settings


class Grid:
    """All cells of an ablation, run by this process and perhaps by others.

    Args:
        out: folder of the results. host: in ``folder``. features: of the held-out videos.
        batch: videos in a batch. drill: of how many videos to note what was kept.
    """

    def __init__(
        self, out: Path, host: Host, folder: Path, features: FeatureCache, cells: list[Cell], batch: int, drill: int
    ) -> None:
        self.out, self.host, self.folder, self.features, self.drill = out, host, folder, features, drill
        self.cells = {cell.settings.file: cell for cell in cells}
        self.batches = Batches(host, features, batch)
        self._done: set[str] = set()
        self._before = {name: self._stamp(name) for name in self.cells if not self._is_done(name)}

    def run(self) -> bool:
        """Run every cell that is not there and that no other process runs; return when all are there.

        Returns:
            Whether other processes ran some of them meanwhile.
        """
        print(f"ablation: {len(self.cells)} cells, {len(self._done)} already there")
        if not self._before:
            return False
        (self.out / FOLDER).mkdir(parents=True, exist_ok=True)  # a folder that cannot be is found out before the work
        with progress_bar() as bar:
            videos = bar.add_task("encoding videos", total=len(self.features.source))
            self.features.fill(lambda done: bar.update(videos, completed=done))
            if self.features.damaged:
                bar.console.print(f"ablation: {len(self.features.damaged)} damaged videos are left out")
            steps = bar.add_task("cells", total=len(self.cells), completed=len(self._done))

            def tick(*_: int) -> None:
                bar.update(steps, completed=self._written())

            return work_off(self.cells, self._lock, self._is_done, lambda name: self._run(name, tick), tick)

    def lock(self) -> FileLock:
        """For what only one process may do at a time with all results."""
        self._lock("report").parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._lock("report"))

    def is_reported(self) -> bool:
        """Whether there is a report that is younger than every cell."""
        file = self.out / REPORT
        return file.exists() and file.stat().st_mtime_ns > max(self._stamp(name) or 0 for name in self.cells)

    def _lock(self, name: str) -> Path:
        return self.out / LOCKS / name

    def _is_done(self, name: str) -> bool:
        if name not in self._done and read_cell(self.out, self.cells[name].settings, self.drill) is not None:
            self._done.add(name)
        return name in self._done

    def _written(self) -> int:
        """Cells that are there, those that another process wrote by now included; nothing is opened."""
        fresh = sum(self._stamp(name) != stamp for name, stamp in self._before.items())
        return len(self.cells) - len(self._before) + fresh

    def _stamp(self, name: str) -> int | None:
        try:
            return (self.out / FOLDER / name).stat().st_mtime_ns
        except OSError:
            return None

    def _run(self, name: str, tick: Callable[[], None]) -> None:
        cell, started, device = self.cells[name], now(), self.host.model.device
        remove_leftovers(self.out / FOLDER / name)
        with cell.row.plugged_into(self.host, self.folder):
            compressor = cell.row.build(cell.settings.budget, cell.settings.seed)
            if isinstance(compressor, torch.nn.Module):
                compressor.to(device)
            rows, kept, cost = evaluate_questions(self.host, compressor, self._ticking(tick), self.drill)
            cost |= self._meter.measure(compressor, cell.row.changes_host)
        damaged = len(self.features.damaged)
        outcome = Outcome(rows, cost, kept, self.drill, started, damaged, device)
        write_cell(self.out, cell.settings, outcome)
        self._done.add(name)

    def _ticking(self, tick: Callable[[], None]) -> Iterator[HeldOutBatch]:
        for batch in self.batches:
            yield batch
            tick()

    @cached_property
    def _meter(self) -> Meter:
        return Meter(self.host, [HeldOutBatch.of(self.host, [one]) for one in islice(self.features.read(), VIDEOS)])
