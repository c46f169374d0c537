"""Held-out videos as a host is asked about them: prompts written, in batches, on the host's device.

Dimensions: B videos of a batch, R question rows, N visual tokens of a video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from framefold.training.frozen_host.ask import EncodedBatch, encode_batch
from framefold.training.frozen_host.host import Host

from .feature_cache import CachedVideo, FeatureCache

IN_MEMORY = 2**30  # bytes of features that are held; more are read from disk for every cell


@dataclass(frozen=True)
class HeldOutBatch:
    """A batch of videos and what is asked about them.

    Attributes:
        asked: prompts, question rows, and videos as the host's vision side sees them.
        numbers, draws, keys: B, see :class:`~framefold.evaluation.ablation.heldout.HeldOutVideo`; twins are one
            cluster.
        evidence: R arrays (N,) bool, the visual tokens that hold the evidence of a row's question.
        events: B arrays (N,) bool, the visual tokens that hold an event which can be asked about, where it is known.
    """

    asked: EncodedBatch
    numbers: list[int]
    draws: list[int]
    keys: list[str]
    evidence: list[np.ndarray]
    events: list[np.ndarray]

    @classmethod
    def of(cls, host: Host, videos: list[CachedVideo]) -> HeldOutBatch:
        """Write the prompts of videos, on the device of the host."""
        return cls(
            encode_batch(host, [video.sample for video in videos]),
            [video.number for video in videos],
            [video.draw for video in videos],
            [video.sample.key for video in videos],
            [mask for video in videos for mask in video.evidence.numpy()],
            [video.events.numpy() for video in videos if video.events is not None],
        )


class Batches:
    """The videos of a cache in batches, as often as they are wanted; in memory if there is room.

    Args:
        size: videos in a batch.
    """

    def __init__(self, host: Host, cache: FeatureCache, size: int) -> None:
        self.host, self.cache, self.size = host, cache, size
        self._held: list[HeldOutBatch] | None = None

    def __iter__(self) -> Iterator[HeldOutBatch]:
        if self._held is not None:
            yield from self._held
            return
        held: list[HeldOutBatch] | None = [] if self.cache.bytes <= IN_MEMORY else None
        videos: list[CachedVideo] = []
        for video in self.cache.read():
            videos.append(video)
            if len(videos) == self.size:
                yield self._made(videos, held)
                videos = []
        if videos:
            yield self._made(videos, held)
        self._held = held

    def _made(self, videos: list[CachedVideo], held: list[HeldOutBatch] | None) -> HeldOutBatch:
        batch = HeldOutBatch.of(self.host, videos)
        if held is not None:
            held.append(batch)
        return batch
