"""Synthetic videos made while they are needed, new ones in every epoch unless `fresh` is False."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from framefold.data.loading.loader import Part, Stream, batch_ends

from .recipe import Recipe


class SyntheticStream(Stream):
    """Synthetic videos made while they are needed, new ones in every epoch unless `fresh` is False."""

    def __init__(self, recipe: Recipe, samples: int, batch_size: int, fresh: bool = True, **where: Any) -> None:
        super().__init__(samples, batch_size, **where)
        self.recipe, self.fresh = recipe, fresh

    def parts(self, epoch: int, places: range, sizes: list[int], wanted: Iterable[int]) -> Iterator[Part]:
        offset = epoch * self.layout.units if self.fresh else 0
        ends = batch_ends(sizes)
        for batch in wanted:
            row = places[ends[batch] - sizes[batch] : ends[batch]]
            own = row[self.seat.part(row)]
            yield [self.recipe.sample(offset + place % self.layout.units) for place in own], ()
