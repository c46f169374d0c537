"""Time of a compressor as a multiple of one plain pass over the features, for the tests that bound it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from framefold.evaluation.bench.compressors import yardstick


def median_ratio(run: Callable[[], Any], x: torch.Tensor, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median over three turns on one thread; they alternate, so that a busy neighbour slows both.

    Args:
        x: (T, H, W, D) features.
        clock: seconds; ``time.process_time`` where the machine may be busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratios = []
        for _ in range(3):
            start = clock()
            yardstick(x)
            middle = clock()
            run()
            ratios.append((clock() - middle) / (middle - start))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(ratios)
