"""Held-out videos with their prompts, in batches on the device of the host.

Dimensions: B videos of a batch, R question rows, N visual tokens of a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from framefold.training.frozen_host.batch import EncodedBatch, encode_batch
from framefold.training.frozen_host.host import Host

from .feature_cache import CachedVideo, FeatureCache

IN_MEMORY = 2**30  # bytes of features; larger caches are read from disk for every result


@dataclass(frozen=True)
class HeldOutBatch:
    """A batch of held-out videos with their questions.

    Attributes:
        encoded: prompts, question rows, and videos as encoded by the vision encoder of the host.
        numbers: (B,) positions in the data.
        clusters: (B,) the same number for twins, see :class:`~framefold.evaluation.ablation.heldout.HeldOutVideo`.
        keys: (B,) keys of the samples.
        evidence: R arrays (N,) bool, the visual tokens with the evidence of each question.
        events: B arrays (N,) bool, the visual tokens with an event that can be asked about; empty if unknown.
    """

    encoded: EncodedBatch
    numbers: list[int]
    clusters: list[int]
    keys: list[str]
    evidence: list[np.ndarray]
    events: list[np.ndarray]

    @classmethod
    def of(cls, host: Host, videos: list[CachedVideo]) -> HeldOutBatch:
        """Write the prompts of videos and move everything to the device of the host."""
        return cls(
            encode_batch(host, [video.sample for video in videos]),
            [video.number for video in videos],
            [video.cluster for video in videos],
            [video.sample.key for video in videos],
            [mask for video in videos for mask in video.evidence.numpy()],
            [video.events.numpy() for video in videos if video.events is not None],
        )


class Batches:
    """Iterable over the videos of a cache in batches; kept in memory after the first pass if there is room.

    Args:
        host: host that answers.
        cache: encoded videos.
        size: videos per batch.
    """

    def __init__(self, host: Host, cache: FeatureCache, size: int) -> None:
        self.host, self.cache, self.size = host, cache, size
        self._stored: list[HeldOutBatch] | None = None

    def __iter__(self) -> Iterator[HeldOutBatch]:
        if self._stored is not None:
            yield from self._stored
            return
        stored: list[HeldOutBatch] | None = [] if self.cache.bytes <= IN_MEMORY else None
        videos: list[CachedVideo] = []
        for video in self.cache.read():
            videos.append(video)
            if len(videos) == self.size:
                yield self._batch(videos, stored)
                videos = []
        if videos:
            yield self._batch(videos, stored)
        self._stored = stored

    def _batch(self, videos: list[CachedVideo], stored: list[HeldOutBatch] | None) -> HeldOutBatch:
        batch = HeldOutBatch.of(self.host, videos)
        if stored is not None:
            stored.append(batch)
        return batch
