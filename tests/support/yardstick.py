"""Time of a compressor as a multiple of one plain pass over the features, for the tests that limit it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from framefold import VideoTokens
from framefold.evaluation.bench.compressors import yardstick


def median_ratio(compressor: Callable[[VideoTokens], Any], x: torch.Tensor) -> float:
    """Median ratio of processor times over three alternating runs on one thread; other processes do not count.

    Args:
        compressor: called with the video.
        x: (T, H, W, D) features of the video.
    """
    video = VideoTokens.from_grid(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratios = []
        for _ in range(3):
            start = time.process_time()
            yardstick(x)
            middle = time.process_time()
            compressor(video)
            ratios.append((time.process_time() - middle) / (middle - start))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(ratios)
