"""Peak memory of a call: of the process or the GPU, or of its tensors alone, which is exact on every machine."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from .tensor_ledger import TensorLedger

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

PAUSE = 0.001  # seconds between two readings of the resident memory


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Measure the memory that a call needs at its peak, on top of what was in use before it, such as the model.

    On CUDA this is memory allocated by torch. On the CPU it is the growth of the resident memory of the process: the
    kernel's high-water mark, which takes no time during the call, or, where that cannot be read or reset (outside of
    Linux), the highest of the values that a thread reads every millisecond. Memory that earlier calls freed is
    returned to the system first, since its reuse would hide growth.

    Args:
        run: called once.
        device: device that ``run`` computes on.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    trim_heap()
    try:
        RESET.write_text("5")  # sets the high-water mark to the present resident memory
        before = _status_bytes("VmRSS")
    except (OSError, LookupError):  # not Linux, or not permitted
        with _ResidentPoll() as poll:
            run()
        return poll.peak - poll.before
    run()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), flags=re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return 1024 * int(found[1])


class _ResidentPoll:
    """Reads the resident memory of this process from a thread."""

    def __init__(self) -> None:
        self._process, self._stop = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self.before = self.peak = self._process.memory_info().rss

    def _poll(self) -> None:
        while not self._stop.wait(PAUSE):
            self._read()

    def _read(self) -> None:
        self.peak = max(self.peak, self._process.memory_info().rss)

    def __enter__(self) -> _ResidentPoll:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._read()


def trim_heap() -> None:
    """Return freed memory to the system; memory that is reused instead does not show in the resident memory."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class ChildMemory:
    """Resident memory of the child processes that are started after this object is created."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._older = {child.pid for child in self._process.children()}

    def resident_bytes(self) -> int:
        """Sum over those that run now."""
        return sum(child.memory_info().rss for child in self._process.children() if child.pid not in self._older)


def peak_tensor_bytes(run: Callable[[], Any], *inputs: torch.Tensor) -> int:
    """Count the most bytes of tensors that are alive at once after any operation of ``run``.

    The result is exact and the same on every machine. Memory that an operation allocates and frees internally is not
    seen.

    Args:
        run: called once.
        inputs: tensors that are not counted.
    """
    with TensorLedger(inputs) as ledger:
        out = run()
    del out
    return ledger.peak
