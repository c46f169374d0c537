"""Work that several processes do together: each task is one process's at a time, and a dead process's is free again.

Locks are files that the operating system lets go of when their process ends, however it ends. They stay behind empty:
to remove one that another process has opened would make two of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PAUSE = 0.2  # seconds between two looks at what others are at

DAY = 86400.0

Task = TypeVar("Task", bound=Hashable)


def work_off(
    tasks: Iterable[Task],
    lock_of: Callable[[Task], Path],
    is_done: Callable[[Task], bool],
    do: Callable[[Task], None],
    tick: Callable[[int], None] = lambda done: None,
) -> bool:
    """Do every task that is not done and that no other process is at; return when all are done, by whomever.

    What a process that ends leaves undone is taken over. An error of a task ends the call.

    Args:
        lock_of: file of the lock of a task. is_done: looks at what is on disk.
        do: does it, and leaves it so that ``is_done``. tick: is called with the number of tasks that are done.

    Returns:
        Whether other processes were at some of the tasks.
    """
    left, total, others = dict.fromkeys(tasks), 0, False
    total = len(left)
    while left:
        worked = False
        for task in list(left):
            if is_done(task):
                del left[task]
                tick(total - len(left))
                continue
            try:
                with _lock(lock_of(task)):
                    if not is_done(task):  # by another process, between the two lines
                        do(task)
            except Timeout:
                others = True
                continue
            del left[task]
            worked = True
            tick(total - len(left))
        if left and not worked:
            time.sleep(PAUSE)
    return others


def _lock(file: Path) -> FileLock:
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file, timeout=0)


def progress_bar() -> Progress:
    """A bar with the time left, which the mean of all steps so far decides: those of a grid take very unequal times."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False)
    return Progress(*columns, *left, speed_estimate_period=DAY)
