"""Random integers that are the same in every numpy version.

numpy guarantees the raw PCG64 stream, but not the distributions that it derives from the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class RandomStream:
    """Random integers from the raw PCG64 stream of a key."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))
        self._pool: list[int] = []

    def below(self, n: int) -> int:
        """Return a uniform integer in 0..n-1 (bias below n / 2**64)."""
        if not self._pool:
            self._pool.extend(self._bits.random_raw(256).tolist())
        return self._pool.pop() % n

    def between(self, low: int, high: int) -> int:
        """Return a uniform integer in low..high, both included."""
        return low + self.below(high - low + 1)

    def permutation(self, n: int) -> list[int]:
        """Return a uniform permutation of 0..n-1 (Fisher-Yates)."""
        order = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def bytes(self, n: int) -> np.ndarray:
        """Return n uniform uint8 values."""
        return self._bits.random_raw(-(-n // 8)).astype("<u8", copy=False).view(np.uint8)[:n]

    def interval_starts(self, lengths: Sequence[int], total: int, gap: int) -> list[int]:
        """Return the starts of intervals of given lengths within `total` frames, in order and at least `gap` apart."""
        slack = total - sum(lengths) - gap * (len(lengths) - 1)
        offsets = sorted(self.below(slack + 1) for _ in lengths)
        return [offset + sum(lengths[:i]) + gap * i for i, offset in enumerate(offsets)]
