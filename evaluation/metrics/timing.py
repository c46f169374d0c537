"""Elapsed time of a block, and of every call of a compressor. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from framefold.adapters.core.tokens import Compressed, VideoTokens

Compress = Callable[..., "Compressed"]


class Stopwatch:
    """Context manager that measures the duration of its block.

    Work that was queued on a CUDA device before the block is not counted, and the block's own work is counted in full.

    Args:
        device: device that computes; None if everything runs on the CPU.

    Attributes:
        seconds: wall-clock time of the block.
        cpu_seconds: processor time of this process, all threads.
        laps: seconds from the start to each call of :meth:`lap`.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device, self.seconds, self.cpu_seconds, self.laps = device, 0.0, 0.0, list[float]()
        self._wall = self._cpu = 0.0

    def start(self) -> None:
        """Start the measurement, as entering the block does."""
        _synchronize(self.device)
        self.laps.clear()
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def lap(self) -> None:
        """Append the seconds since the start to ``laps``, without waiting for the device."""
        self.laps.append(time.perf_counter() - self._wall)

    def stop(self) -> None:
        """End the measurement, as leaving the block does."""
        _synchronize(self.device)
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu

    def __enter__(self) -> Stopwatch:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _synchronize(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


class TimedCompressor:
    """A compressor that records the duration of each call.

    Attributes:
        milliseconds: duration of each call so far, in order.
    """

    def __init__(self, compressor: Compress, device: torch.device) -> None:
        self.compressor, self.device = compressor, device
        self.query_aware = getattr(compressor, "query_aware", False)
        self.needs_query = getattr(compressor, "needs_query", self.query_aware)
        self.in_llm = getattr(compressor, "in_llm", None)
        self.needs_attention = getattr(compressor, "needs_attention", False)
        self.milliseconds: list[float] = []

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        with Stopwatch(self.device) as watch:
            out = self.compressor(video, query)
        self.milliseconds.append(1000 * watch.seconds)
        return out
