"""A stream of synthetic videos, generated while they are read."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from framefold.data.loading.loader import PartialBatch, SampleStream

from .recipe import Recipe


class SyntheticStream(SampleStream):
    """Synthetic videos, generated while they are read.

    Args:
        recipe: how videos are generated.
        samples: videos per epoch.
        batch_size: videos in a batch of one rank.
        fresh: generate new videos in every epoch; False repeats those of the first.
        where: further arguments of :class:`~framefold.data.loading.loader.SampleStream`.
    """

    def __init__(self, recipe: Recipe, samples: int, batch_size: int, fresh: bool = True, **where: Any) -> None:
        super().__init__(samples, batch_size, **where)
        self.recipe, self.fresh = recipe, fresh
        self.order_settings = {"data": zlib.crc32(repr(recipe).encode())}

    def partial_batches(
        self, epoch: int, positions: range, sizes: list[int], numbers: Iterable[int]
    ) -> Iterator[PartialBatch]:
        offset = epoch * self.layout.units if self.fresh else 0
        ends = list(itertools.accumulate(sizes))
        for number in numbers:
            batch = positions[ends[number] - sizes[number] : ends[number]]
            share = batch[self.share.part(batch)]
            yield [self.recipe.sample(offset + position % self.layout.units) for position in share], ()
