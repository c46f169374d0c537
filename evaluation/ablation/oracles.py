"""What could be won: compressors that are told where the evidence is.

Dimensions: N visual tokens of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.core.tokens import Compressed, VideoTokens

from .batches import HeldOutBatch


class KeepEvidence:
    """Keeps annotated tokens; what is left of the budget goes to evenly spaced tokens of the rest.

    Those that exceed the budget are thinned out evenly. Called once for each mask, in their order.

    Args:
        tokens_of: number of visual tokens to keep of N.
        asked: keep the evidence of the question asked; otherwise that of all events, whatever is asked.
    """

    needs_attention = False

    def __init__(self, tokens_of: Callable[[int], int], asked: bool = True) -> None:
        self.tokens_of, self.query_aware = tokens_of, asked
        self._masks: Iterator[np.ndarray] = iter(())

    def begin(self, batch: HeldOutBatch) -> None:
        """The next calls are about this batch."""
        self._masks = iter(batch.evidence if self.query_aware else batch.events)

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        mask, k = next(self._masks), self.tokens_of(len(video))
        evidence, others = np.flatnonzero(mask), np.flatnonzero(~mask)
        chosen = _thin(evidence, min(k, len(evidence)))
        rest = _thin(others, k - len(chosen))
        return Compressed(video.keep(torch.from_numpy(np.sort(np.concatenate([chosen, rest]))).to(video.index.device)))


def _thin(places: np.ndarray, k: int) -> np.ndarray:
    return places[(2 * np.arange(k) + 1) * len(places) // (2 * max(k, 1))]
