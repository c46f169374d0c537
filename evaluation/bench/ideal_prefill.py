"""Time of the language model in a prefill, and its ideal where later layers have fewer columns than earlier ones.

Dimensions: n layers.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from framefold.adapters.hosts.base.family import family_of
from framefold.evaluation.metrics.timing import Stopwatch

WORD = 1000  # id of the words in prompts without video


@contextmanager
def timed_language_model(host: Any) -> Iterator[Stopwatch]:
    """Measure the language model, from its embeddings to its last norm, in the forward passes of the block.

    Enter it before a compressor is attached, so that the hooks of a stage in the language model count.
    """
    text: Any = family_of(host).language_model(host)
    watch = Stopwatch(host.device)
    hooks = [
        text.register_forward_pre_hook(lambda *_: watch.start()),
        text.register_forward_hook(lambda *_: watch.stop()),
    ]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def cached_columns(cache: Any) -> tuple[int, ...]:
    """Return the number of columns that each layer has cached."""
    return tuple(int(cache.get_seq_length(layer)) for layer in range(len(cache)))


class IdealPrefill:
    """Seconds of the language model of a host for prompts of some lengths in which all layers have all columns.

    Args:
        host: without a compressor.
    """

    def __init__(self, host: Any) -> None:
        self.host = host
        self.seconds: dict[int, list[float]] = defaultdict(list)

    def measure(self, lengths: Sequence[int], warm_up: bool) -> None:
        """Run one prompt of words of each length.

        Args:
            lengths: numbers of columns.
            warm_up: do not keep the times.
        """
        for length in lengths:
            ids = torch.full((1, length), WORD, device=self.host.device)
            with timed_language_model(self.host) as watch, torch.no_grad():
                self.host(input_ids=ids, use_cache=True, logits_to_keep=1)
            if not warm_up:
                self.seconds[length].append(watch.seconds)

    def of(self, columns: Sequence[int]) -> float:
        """Return the ideal seconds of a prompt: the mean over the layers of the time for as many columns as each has.

        Args:
            columns: (n,) numbers of columns, all of them measured.
        """
        return statistics.mean(statistics.median(self.seconds[length]) for length in columns)
