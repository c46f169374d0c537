"""Random numbers of a training that depend on the sample, not on the rank, worker or step at which it is met."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.data.shards.sample import Sample


class SampleRng:
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
        with seeded_generators(*self.key, *next(self.names)):
            return self.compressor(video, query)


@contextmanager
def seeded_generators(*key: Any) -> Iterator[None]:
    """Random numbers of torch that depend on the key alone; the generators go on afterwards as if nothing was."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        yield
