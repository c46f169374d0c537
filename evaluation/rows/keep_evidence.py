"""Upper bounds: compressors that know which tokens hold the evidence.

Dimensions: N visual tokens of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.core.tokens import Compressed, VideoTokens


class AnnotatedBatch(Protocol):
    """Masks of the visual tokens with evidence."""

    @property
    def evidence(self) -> Sequence[np.ndarray]:
        """One (N,) bool mask per question."""
        ...

    @property
    def events(self) -> Sequence[np.ndarray]:
        """One (N,) bool mask per video."""
        ...


class KeepEvidence:
    """Keeps the annotated tokens and fills the rest of the budget with evenly spaced other tokens.

    If the annotated tokens exceed the budget, evenly spaced ones among them are kept. After :meth:`begin`, each call
    takes the next mask of the batch.

    Args:
        tokens_of: maps N to the number of tokens to keep.
        query_aware: keep the evidence of the question; otherwise that of all events, for every question alike.
    """

    needs_attention = False

    def __init__(self, tokens_of: Callable[[int], int], query_aware: bool = True) -> None:
        self.tokens_of, self.query_aware = tokens_of, query_aware
        self._masks: Iterator[np.ndarray] = iter(())

    def begin(self, batch: AnnotatedBatch) -> None:
        """Take the masks of a batch for the calls that follow."""
        self._masks = iter(batch.evidence if self.query_aware else batch.events)

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        mask, k = next(self._masks), self.tokens_of(len(video))
        evidence, others = np.flatnonzero(mask), np.flatnonzero(~mask)
        chosen = _spread(evidence, min(k, len(evidence)))
        rest = _spread(others, k - len(chosen))
        return Compressed(video.keep(torch.from_numpy(np.sort(np.concatenate([chosen, rest]))).to(video.index.device)))


def _spread(tokens: np.ndarray, k: int) -> np.ndarray:
    """Return k evenly spaced entries."""
    return tokens[(2 * np.arange(k) + 1) * len(tokens) // (2 * max(k, 1))]
