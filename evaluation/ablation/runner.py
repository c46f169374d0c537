"""Computes the results of an ablation, alone or together with other processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import budget_tokens
from framefold.errors import AttachError, BudgetError
from framefold.evaluation.metrics.timing import Compress
from framefold.evaluation.results.left_out import LeftOut, is_left_out, write_left_out
from framefold.evaluation.results.provenance import now
from framefold.evaluation.results.result_files import FOLDER, Outcome, read_result, write_result
from framefold.evaluation.results.settings import REPORT, Settings
from framefold.evaluation.rows.resized import Resized
from framefold.files import remove_leftovers
from framefold.progress import progress_bar
from framefold.training.frozen_host.host import Host

from .ask import evaluate_questions
from .batches import Batches, HeldOutBatch
from .cost import VIDEOS, CostMeter, tower_cost
from .feature_cache import FeatureCache
from .methods import Method
from .row_methods import AnyMethod, ResizedFrames
from .trials_in_llm import check_possible, describe_acts, match_flops
from .work_queue import run_shared_tasks

LOCKS = ".locks"

MOST_NAMED = 5  # damaged videos that the output names


@dataclass(frozen=True)
class Trial:
    """A method at one budget with one seed; its outcome is one result."""

    method: AnyMethod
    settings: Settings


class AblationRunner:
    """Computes the results of an ablation, perhaps together with other processes.

    Args:
        out: folder of the results.
        host: host that answers.
        host_folder: folder that it was loaded from.
        features: held-out videos as encoded by the host.
        trials: trials in the order in which they are run.
        batch_size: videos per batch.
        kept_videos: number of videos, from the first, for which the kept tokens are recorded.
    """

    def __init__(
        self,
        out: Path,
        host: Host,
        host_folder: Path,
        features: FeatureCache,
        trials: list[Trial],
        batch_size: int,
        kept_videos: int,
    ) -> None:
        self.out, self.host, self.host_folder, self.features = out, host, host_folder, features
        self.kept_videos = kept_videos
        self.trials = {trial.settings.file: trial for trial in trials}
        self.batches = Batches(host, features, batch_size)
        self._smaller: dict[Any, Batches] = {}  # by the pixels of the smaller frames
        self._part = 0.0  # finished part of the current trial
        self._done: set[str] = set()
        self._missing = {name: self._modified(name) for name in self.trials if not self._is_done(name)}

    def run(self) -> bool:
        """Compute every result that is missing and that no other process computes; return when all exist.

        Returns:
            Whether other processes computed some of them meanwhile.
        """
        print(f"ablation: {len(self.trials)} results, {len(self._done)} of them exist already")
        if not self._missing:
            return False
        (self.out / FOLDER).mkdir(parents=True, exist_ok=True)  # an impossible folder raises before the work
        with progress_bar(what="encoding videos", total=len(self.features.source), unit="video") as bar:
            self.features.fill(lambda done: bar.update(done - bar.n))
        self._leave_out_impossible()
        if self.features.damaged:
            reasons = list(self.features.damaged.values())
            more = f"; and {len(reasons) - MOST_NAMED} more" if len(reasons) > MOST_NAMED else ""
            print(f"ablation: {len(reasons)} damaged videos are left out: {'; '.join(reasons[:MOST_NAMED])}{more}")
        with progress_bar(what="results", total=len(self.trials), done=len(self._done), unit="result") as bar:

            def update(*_: int) -> None:
                bar.update(min(self._count_written() + self._part, len(self.trials)) - bar.n)

            return run_shared_tasks(
                self.trials, self._lock_file, self._is_done, lambda name: self._run(name, update), update
            )

    def report_lock(self) -> FileLock:
        """Return the lock under which one process at a time reads all results and writes the report."""
        file = self._lock_file("report")
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(file)

    def is_reported(self) -> bool:
        """Whether there is a report that is newer than every result."""
        file = self.out / REPORT
        return file.exists() and file.stat().st_mtime_ns > max(self._modified(name) or 0 for name in self.trials)

    def _lock_file(self, name: str) -> Path:
        return self.out / LOCKS / name

    def _is_done(self, name: str) -> bool:
        settings = self.trials[name].settings
        if name not in self._done and (
            read_result(self.out, settings, self.kept_videos) is not None or is_left_out(self.out, settings)
        ):
            self._done.add(name)
        return name in self._done

    def _count_written(self) -> int:
        """Count the results that exist by now, including those of other processes, without opening a file."""
        new = sum(self._modified(name) != before for name, before in self._missing.items())
        return len(self.trials) - len(self._missing) + new

    def _modified(self, name: str) -> int | None:
        try:
            return (self.out / FOLDER / name).stat().st_mtime_ns
        except OSError:
            return None

    def _leave_out_impossible(self) -> None:
        """Say where methods act in the host, and leave out the missing results that its layers do not allow."""
        named = set()
        for trial in self.trials.values():
            method = trial.method
            if self._is_done(trial.settings.file):
                continue
            try:
                method.check_possible(trial.settings.budget, self._grids)
            except BudgetError as error:
                self._leave_out(trial, error)
                continue
            if not isinstance(method, Method) or not method.acts_in_llm:
                continue
            compressor = method.build(1.0 if method.equal_flops else trial.settings.budget, trial.settings.seed)
            if method.name not in named and (acts := describe_acts(self.host, compressor)):
                print(f"ablation: {method.name} acts {acts}")
            named.add(method.name)
            try:
                check_possible(self.host, compressor, self._grids)
            except (AttachError, BudgetError) as error:
                self._leave_out(trial, error)

    def _leave_out(self, trial: Trial, error: AttachError | BudgetError) -> None:
        settings, name = trial.settings, trial.method.name
        print(f"ablation: {name} is left out at {settings.budget:g}: {error}")
        videos = sum(self._grids.values())
        tokens = sum(budget_tokens(settings.budget, t * h * w) * n for (t, h, w), n in self._grids.items()) / videos
        is_trained, smallest = settings.adapter is not None, getattr(error, "smallest", None)
        left_out = LeftOut(name, settings.budget, is_trained, tokens, smallest, str(error))
        write_left_out(self.out, settings, left_out)
        self._done.add(settings.file)

    def _run(self, name: str, on_progress: Callable[[], None]) -> None:
        trial, started, device = self.trials[name], now(), self.host.model.device
        remove_leftovers(self.out / FOLDER / name)
        with trial.method.apply_lora(self.host, self.host_folder):
            try:
                compressor, equality = self._match(trial)
            except BudgetError as error:
                return self._leave_out(trial, error)
            batches = self._iterate(self._batches_of(trial, compressor), on_progress)
            answers, kept, cost = evaluate_questions(self.host, compressor, batches, self.kept_videos)
            cost |= self._cost_meter.measure(compressor, trial.method.lora_key) | equality
            cost["budget_flops"] = self._cost_meter.budget_flops(trial.settings.budget)
        damaged = len(self.features.damaged)
        outcome = Outcome(answers, cost, kept, self.kept_videos, started, damaged, device)
        self._part = 0.0
        write_result(self.out, trial.settings, outcome)
        self._done.add(name)

    def _match(self, trial: Trial) -> tuple[Compress, dict[str, Any]]:
        """Return the compressor of a trial, and what its costs say about the equality of the budget.

        Raises:
            BudgetError: equal operations are not possible.
        """
        method, budget = trial.method, trial.settings.budget
        compressor = self._build(trial)
        if isinstance(compressor, torch.nn.Module):
            compressor.to(self.host.model.device)
        if not isinstance(method, Method) or not method.equal_flops or not isinstance(compressor, Compressor):
            return compressor, {}
        equal = match_flops(self.host, self._cost_meter, compressor, budget)
        compressor.budget = equal.budget
        return compressor, {"equal_flops": equal.allowed, "equal_budget": equal.budget}

    def _build(self, trial: Trial) -> Compress:
        method, settings = trial.method, trial.settings
        if not isinstance(method, Method) or not method.untrained:
            return method.build(settings.budget, settings.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            compressor = method.build(settings.budget, settings.seed)
            self.host.family.create_parameters(compressor, self.host.model)
        return compressor

    def _batches_of(self, trial: Trial, compressor: Compress) -> Batches:
        """Return the videos of a trial, encoded from smaller frames if it shows these."""
        if not isinstance(compressor, Resized) or not isinstance(trial.method, ResizedFrames):
            return self.batches
        compressor.rows = trial.method.rows(trial.settings.budget, self._grids)
        side = self.host.pixels_per_token
        cells = {grid[1:]: compressor.cells(grid) for grid in sorted(self._grids)}
        pixels = {size: (down * side, across * side) for size, (down, across) in cells.items()}
        key = tuple(pixels.items())
        if key not in self._smaller:
            features = self.features.with_detail(pixels)
            shown = " and ".join(dict.fromkeys(f"{height} x {width}" for height, width in pixels.values()))
            with progress_bar(what=f"encoding frames of {shown}", total=len(features.source)) as bar:
                features.fill(lambda done: bar.update(done - bar.n))
            self._smaller = {key: Batches(self.host, features, self.batches.size)}  # one size in memory at a time
        return self._smaller[key]

    def _iterate(self, videos: Batches, on_progress: Callable[[], None]) -> Iterator[HeldOutBatch]:
        batches = -(-len(self.features.source) // self.batches.size)
        for number, batch in enumerate(videos):
            yield batch
            self._part = (number + 1) / (batches + 1)  # the costs are measured after the last batch
            on_progress()

    @cached_property
    def _grids(self) -> Counter[tuple[int, int, int]]:
        return self.features.grids()

    @cached_property
    def _cost_meter(self) -> CostMeter:
        videos = [HeldOutBatch.of(self.host, [video]) for video in islice(self.features.read(), VIDEOS)]
        return CostMeter(self.host, videos, tower_cost(self.host, self.features.source))
