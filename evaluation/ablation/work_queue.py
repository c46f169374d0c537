"""Tasks shared by several processes: one process runs a task at a time, and tasks of dead processes are taken over.

Locks are files that the operating system releases when their process ends, in whatever way. The empty files stay:
another process may have opened a lock file, and removing it would make two locks of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

PAUSE = 0.2  # seconds between two checks of the tasks that other processes run

Task = TypeVar("Task", bound=Hashable)


def run_shared_tasks(
    tasks: Iterable[Task],
    lock_file: Callable[[Task], Path],
    is_done: Callable[[Task], bool],
    run: Callable[[Task], None],
    on_progress: Callable[[int], None] = lambda done: None,
) -> bool:
    """Run every task that is not done and that no other process runs; return when all are done by any process.

    Tasks that a dying process leaves undone are taken over. An error in a task ends the call.

    Args:
        tasks: tasks in the order in which they are tried.
        lock_file: returns the path of a task's lock.
        is_done: checks on disk whether a task is done.
        run: runs a task; afterwards ``is_done`` must hold.
        on_progress: called with the number of finished tasks.

    Returns:
        Whether other processes ran some of the tasks.
    """
    left, others = dict.fromkeys(tasks), False
    total = len(left)
    while left:
        progressed = False
        for task in list(left):
            if is_done(task):
                del left[task]
                on_progress(total - len(left))
                continue
            try:
                with _lock(lock_file(task)):
                    if not is_done(task):  # another process may have finished it since the first check
                        run(task)
            except Timeout:
                others = True
                continue
            del left[task]
            progressed = True
            on_progress(total - len(left))
        if left and not progressed:
            time.sleep(PAUSE)
    return others


def _lock(file: Path) -> FileLock:
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file, timeout=0)
