"""Peak memory of an operation on the CPU, as its allocator reports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(operation: Callable[[], Any]) -> int:
    """Return the largest sum of what an operation has allocated on the CPU and not yet freed, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        result = operation()
    del result
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
