"""Where the held-out videos of an ablation come from: a recipe of synthetic ones, or shards.

A source describes itself for the settings of cells, and makes its videos one by one, each when it is asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol

from webdataset.tariterators import tarfile_samples

from framefold.data.question import Question
from framefold.data.shards.index import VIDEOS, Index
from framefold.data.shards.sample import Sample, questions_of, read_notes, unpack, unpack_video
from framefold.data.shards.sources import opened, reason
from framefold.data.synthetic.difficulty import difficulty_of
from framefold.data.synthetic.questions import QUESTION_TYPES
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.timeline import ASKED_ABOUT
from framefold.errors import DataError
from framefold.evaluation.results.settings import SHARDS, SYNTHETIC

OURS = re.compile(r"(train|val|test)-\d+-(\d{8})")  # keys of videos that come as twins, 2 i and 2 i + 1

MOST_DAMAGED = 0.05  # share of the videos


@dataclass(frozen=True)
class HeldOutVideo:
    """A held-out video before the host has seen it.

    Attributes:
        sample: what the host is shown, or was shown when it made features.
        number: its place in the data. draw: the same for twins, which are one draw of statistics.
        events: a last question of the sample is none: its evidence is everything that can be asked about.
    """

    sample: Sample
    number: int
    draw: int
    events: bool = False


class Source(Protocol):
    """Held-out videos."""

    @property
    def types(self) -> set[str]:
        """Types of the questions."""
        ...

    @property
    def evidence(self) -> bool:
        """Whether any is annotated."""
        ...

    def __len__(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """What the settings of a cell say of it."""
        ...

    def videos(self) -> Iterator[Callable[[], HeldOutVideo]]:
        """What makes each video, in their order.

        A call raises DataError for a damaged one.
        """
        ...


@dataclass(frozen=True)
class Synthetic:
    """The first videos of a recipe; 2 i and 2 i + 1 are twins."""

    recipe: Recipe
    count: int
    types: set[str] = field(default_factory=lambda: set(QUESTION_TYPES))
    evidence: bool = True

    def __len__(self) -> int:
        return self.count

    def describe(self) -> dict[str, Any]:
        """See :class:`Source`."""
        recipe = self.recipe
        return {
            "kind": SYNTHETIC,
            "videos": self.count,
            "frames": recipe.frames[1],
            "seed": recipe.seed,
            "split": recipe.split,
            "difficulty": difficulty_of(recipe.difficulty).plain(),
            "style": recipe.style,
        }

    def videos(self) -> Iterator[Callable[[], HeldOutVideo]]:
        """See :class:`Source`."""
        yield from (partial(self._video, number) for number in range(self.count))

    def _video(self, number: int) -> HeldOutVideo:
        video = self.recipe.video(number)
        sample = self.recipe.sample_of(video)
        boxes = (box for event in video.events if event.kind in ASKED_ABOUT for box in event.boxes)
        last = Question("", "what happened ?", "yes", (), tuple(boxes))
        return HeldOutVideo(replace(sample, questions=(*sample.questions, last)), number, number // 2, events=True)


class Shards:
    """The first samples of shards, videos or what a host has made of them.

    Everything is read once to begin with: what a result depends on is what is in the samples.

    Args:
        shards: what :func:`~framefold.data.shards.sources.resolve_shards` made of their names. most: of the samples.
        frames: that a host is shown of each video at most.

    Raises:
        DataError: no shards there, or nothing in them can be read.
    """

    def __init__(self, shards: Index, most: int, frames: int) -> None:
        self.index, self.shards, self.frames, self.most = shards, shards.source, frames, most
        self.types: set[str] = set()
        self.evidence = False
        digest, self.keys = hashlib.sha256(), list[str]()
        for raw in self._raws():
            key = str(raw["__key__"])
            self.keys.append(key)
            for name in sorted(raw):
                if not name.startswith("__"):
                    digest.update(f"{key} {name} {len(raw[name])}\n".encode())
                    digest.update(raw[name])
            self._look_at(key, raw)
        if not self.types:
            raise DataError(f"no sample of {self.shards} could be read: 'framefold shards check' names the damage")
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.keys)

    def describe(self) -> dict[str, Any]:
        """See :class:`Source`."""
        what = {"kind": SHARDS, "shards": self.shards, "digest": self.digest}
        return what | {"videos": len(self.keys), "frames": self.frames if self.index.kind == VIDEOS else None}

    def videos(self) -> Iterator[Callable[[], HeldOutVideo]]:
        """See :class:`Source`."""
        yield from (partial(self._video, number, raw) for number, raw in enumerate(self._raws()))

    def _video(self, number: int, raw: dict[str, Any]) -> HeldOutVideo:
        return HeldOutVideo(self._sample(raw), number, self._draw(number))

    def _sample(self, raw: dict[str, Any]) -> Sample:
        key = str(raw["__key__"])
        if {"mp4", "json"} <= raw.keys() and "safetensors" not in raw:
            return unpack_video(key, read_notes(key, raw["json"]), raw["mp4"], self.frames)
        return unpack(key, raw)

    def _draw(self, number: int) -> int:
        """The place of the first twin, or its own."""
        found = OURS.fullmatch(self.keys[number])
        if found is None or int(found[2]) % 2 == 0:
            return number
        return self._places.get(f"{self.keys[number][:-8]}{int(found[2]) - 1:08d}", number)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def _look_at(self, key: str, raw: dict[str, Any]) -> None:
        try:
            questions = questions_of(key, read_notes(key, raw["json"]))
        except (DataError, KeyError):
            return  # it is counted when it is to be shown
        self.types |= {question.type for question in questions}
        self.evidence |= any(question.evidence for question in questions)

    def _raws(self) -> Iterator[dict[str, Any]]:
        errors: list[Exception] = []

        def note(error: Exception) -> bool:
            errors.append(error)
            return True

        urls = [{"url": opened(shard.path)} for shard in self.index.shards]
        yield from itertools.islice(tarfile_samples(urls, handler=note), self.most)
        if errors:
            raise DataError(f"{self.shards} cannot be read{reason(errors)}: 'framefold shards check' names the damage")
