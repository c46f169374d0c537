"""Loader workers: the signals that they answer, and the open files that they need."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from framefold.errors import DataError

SPARE_FILES = 16  # that a worker keeps free for its pipes, the shard that it reads, and connections
FILES_PER_SAMPLE = 8  # file descriptors of the tensors of a sample, in shared memory


def answer_only_parent(worker: int) -> None:
    """Let a worker end on SIGTERM from its parent, but not on signals to the whole process group or job.

    Those reach the parent as well, which finishes its step and then ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def is_out_of_files(error: BaseException) -> bool:
    """Return whether an error says that too many files are open; a receiving process only misses something."""
    text = str(error)
    return getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or any(
        words in text for words in ("ancdata", "Too many open files", "too many open files")
    )


def check_open_files(samples: Sequence[Any], workers: int) -> None:
    """Check that a worker can send samples, whose tensors are sent as file descriptors.

    Otherwise the batch would be lost, and its receiver would wait for it.

    Args:
        samples: of a batch.
        workers: number of loader workers.

    Raises:
        DataError: too many files are open.
    """
    opened: list[int] = []
    try:
        with name_open_files(workers, len(samples)):
            for _ in range(SPARE_FILES + FILES_PER_SAMPLE * len(samples)):
                opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for file in opened:
            os.close(file)


@contextmanager
def name_open_files(workers: int, per_batch: int) -> Iterator[None]:
    """Say what to do when too many files are open.

    Args:
        workers: number of loader workers.
        per_batch: samples in a batch of one rank.

    Raises:
        DataError: too many files are open.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not is_out_of_files(error):
            raise
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise DataError(
            f"too many open files: a process may open {limit} (ulimit -n), too few for data.workers {workers} with "
            f"batches of {per_batch} samples, whose tensors are sent as files: raise the limit with "
            f"'ulimit -n {max(4096, limit * 4)}', or lower data.workers or data.batch_size"
        ) from error
