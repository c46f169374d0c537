"""The most memory of a call, where its time is measured too: read off the kernel's high-water mark.

A thread that looks every millisecond, as :func:`~framefold.training.measure.peak_memory` has one on the CPU, takes a
tenth of the time of a small host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from .measure import peak_memory, return_freed

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def high_water(run: Callable[[], object], device: torch.device) -> int:
    """As :func:`~framefold.training.measure.peak_memory`, without disturbing the call; the same where it cannot be."""
    if device.type != "cpu":
        return peak_memory(run, device)
    return_freed()
    try:
        RESET.write_text("5")  # the mark falls to what is resident now
        before = _resident("VmRSS")
    except (OSError, LookupError):  # not Linux, or not allowed
        return peak_memory(run, device)
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), flags=re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return 1024 * int(found[1])
