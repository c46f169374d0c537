"""Random numbers in training that depend on the sample, and not on its rank or worker."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.data.shards.sample import Sample


class SampleRng:
    """Calls a compressor with random generators that are seeded by the sample (and question).

    The random numbers of a resumed run equal those of an uninterrupted one, and those of several ranks equal those of a
    single process.

    Args:
        compressor: the compressor to call.
        samples: of the batch, in order; a query-aware compressor is called once for each of their questions.
        key: further values that the numbers depend on, such as the seed of the run and the step.
    """

    def __init__(self, compressor: Compressor, samples: Sequence[Sample], key: tuple[Any, ...]) -> None:
        self.compressor = compressor
        self.query_aware, self.needs_attention = compressor.query_aware, compressor.needs_attention
        self.needs_query, self.in_llm = compressor.needs_query, compressor.in_llm
        self.biases_keys = compressor.biases_keys
        calls = [[(s.key, q) for q in range(len(s.questions))] if self.query_aware else [(s.key,)] for s in samples]
        self.calls, self.key = iter([call for sample in calls for call in sample]), key

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        with seeded_generators(*self.key, *next(self.calls)):
            return self.compressor(video, query)


@contextmanager
def seeded_generators(*key: Any) -> Iterator[None]:
    """Seed the random generators of torch by the key; the global generators are restored afterwards."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed)
        yield


def run_seed() -> str | None:
    """Return the seed that ``seed_everything`` of Lightning has set, None if it was not called."""
    return os.environ.get("PL_GLOBAL_SEED")
