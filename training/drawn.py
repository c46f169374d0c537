"""Random numbers of a training that depend on the sample, not on the rank, worker or step at which it is met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..adapters import Compressed, Compressor, VideoTokens
from ..data.samples import Sample
from .lora import seeded


class Drawn:
    """A compressor that draws what it draws while training from the seed of a sample (and question) alone.

    A resumed run then draws as one that went through, and any number of ranks as a single process.

    Args:
        samples: of the batch, in order; a query-aware compressor is called once for each of their questions.
        key: what else the numbers depend on, such as the seed of the training and the step.
    """

    def __init__(self, compressor: Compressor, samples: Sequence[Sample], key: tuple[Any, ...]) -> None:
        self.compressor = compressor
        self.query_aware, self.needs_attention = compressor.query_aware, compressor.needs_attention
        calls = [[(s.key, q) for q in range(len(s.questions))] if self.query_aware else [(s.key,)] for s in samples]
        self.names, self.key = iter([name for names in calls for name in names]), key

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        with seeded(*self.key, *next(self.names)):
            return self.compressor(video, query)
