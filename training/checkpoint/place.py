"""Continue Lightning's loops exactly where a checkpoint was saved.

Lightning infers the place from differences between its counters. Runs that resume at the end of an epoch, whatever
ended it, before a validation, or after ``max_steps`` has cut an epoch, then train other batches, count other epochs or
leave out a validation. Here the place is read once and all counters are set to what they are in a run that was never
interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytorch_lightning.callbacks import GradientAccumulationScheduler


@dataclass(frozen=True)
class Place:
    """Where a checkpoint was saved, always between two optimizer steps.

    Attributes:
        epoch: number of the epoch of the latest batch, from 0.
        batches: batches of it that have been trained.
        is_last: whether the latest batch was the last one of its epoch.
        is_validated: whether a validation after the latest batch, if one was due, has been finished.
    """

    epoch: int
    batches: int
    is_last: bool
    is_validated: bool


def restore_place(trainer: Any) -> None:
    """Set counters and loaders to the place of the loaded checkpoint, after validating there if the run had not.

    All ranks call it, once everything has been loaded and before the first batch. Runs that start anew are not changed.
    """
    loop = trainer.fit_loop
    if not loop.is_resuming or trainer.limit_train_batches == 0:
        return
    loop.setup_data()
    if loop.max_batches == 0:
        return
    place = _read_place(loop)
    is_over = _restore_loaders(loop, place)
    _set_counters(loop, place.epoch, place.batches, place.is_last)
    loop.epoch_loop._batches_that_stepped = trainer.global_step - 1  # Lightning counts a step after its validation
    is_due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    if is_due and not place.is_validated:
        _validate(trainer)
    if is_over:
        _set_counters(loop, place.epoch + 1, 0, False)
    # In the middle of an epoch, Lightning skips the validation that was due and counts the step once more.
    loop.epoch_loop._batches_that_stepped = trainer.global_step - (is_due and not is_over)
    _set_restarting(loop, not is_over)
    loop.epoch_loop.val_loop._restarting = True  # so that there is no sanity check; reset before the first batch
    if not is_over:
        _schedule_accumulation(trainer)


def _schedule_accumulation(trainer: Any) -> None:
    """Follow a schedule of accumulated batches in the epoch that is resumed.

    Lightning does so when an epoch starts, and before that refuses a trainer that accumulates batches.
    """
    loop = trainer.fit_loop.epoch_loop
    schedules = [each for each in trainer.callbacks if isinstance(each, GradientAccumulationScheduler)]

    def on_run_start(fetcher: Any) -> None:
        del loop.on_run_start  # this function; what follows is Lightning's
        for schedule in schedules:
            schedule.on_train_epoch_start(trainer)
        loop.on_run_start(fetcher)

    if schedules:
        loop.on_run_start = on_run_start


def _read_place(loop: Any) -> Place:
    batch = loop.epoch_loop.batch_progress
    epochs, batches = loop.epoch_progress.current.ready, batch.current
    if not batches.processed:  # saved before the first batch of an epoch
        return Place(max(0, epochs - 2), loop.max_batches, True, True)
    return Place(max(0, epochs - 1), batches.processed, batch.is_last_batch, batches.completed == batches.processed)


def _restore_loaders(loop: Any, place: Place) -> bool:
    """Set the loaders to the place; return whether its epoch is over.

    An epoch also ends here if a limit was lowered, or if the rest of it cannot be continued, because the order changed.
    """
    states = loop._combined_loader_states_to_load  # empty if setup_data has loaded them
    if states:
        loop._combined_loader._load_state_dicts(states)
        loop._combined_loader_states_to_load = []
    loaders = [loader for loader in loop._combined_loader.flattened if hasattr(loader, "end_epoch")]
    is_over = place.is_last or place.batches >= loop.max_batches or any(each.is_at_epoch_start for each in loaders)
    if is_over:
        for loader in loaders:
            loader.end_epoch()
    if states or is_over:
        iter(loop._data_fetcher)  # starts at the restored position
    return is_over


def _set_counters(loop: Any, epoch: int, batches: int, is_last: bool) -> None:
    """Set the counters to those after `batches` batches of an epoch; with 0, to those before the epoch starts."""
    begun = epoch + bool(batches)
    for tracker in (loop.epoch_progress.current, loop.epoch_progress.total):
        tracker.ready = tracker.started = begun
        tracker.processed = tracker.completed = epoch
    progress = loop.epoch_loop.batch_progress
    progress.is_last_batch = is_last
    for tracker, count in ((progress.current, batches), (progress.total, progress.total.processed)):
        tracker.ready = tracker.started = tracker.processed = tracker.completed = count
    if not batches:
        loop.epoch_loop.scheduler_progress.reset_on_run()
        loop.epoch_loop.automatic_optimization.optim_progress.reset_on_run()


def _validate(trainer: Any) -> None:
    """Run the validation that the interrupted run had not finished."""
    validation, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    validation._restarting = False
    first = connector._first_loop_iter
    trainer.validating = True
    validation.run()
    trainer.training = True
    connector._first_loop_iter = first


def _set_restarting(loop: Any, value: bool) -> None:
    """Set whether a loop and its inner loops continue an epoch, without Lightning's setter, which decides itself."""
    loop._restarting = loop._loaded_from_state_dict = value
    for inner in vars(loop).values():
        if hasattr(inner, "_loaded_from_state_dict"):
            _set_restarting(inner, value)


@contextmanager
def pending_validation(trainer: Any, is_pending: bool) -> Iterator[None]:
    """Save checkpoints as they are before the validation after the latest batch, so that it is repeated.

    Args:
        trainer: between two steps, or in the middle of a validation.
        is_pending: whether a validation there, if one is due, has not been finished.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    trackers = [progress.current, progress.total] if is_pending and progress.current.processed else []
    before = [tracker.completed for tracker in trackers]
    for tracker in trackers:
        tracker.completed = tracker.processed - 1
    try:
        yield
    finally:
        for tracker, completed in zip(trackers, before, strict=True):
            tracker.completed = completed
