"""Sources of the held-out videos of an ablation: a recipe of synthetic videos, or shards.

A source describes itself for the settings of results, and creates its videos one at a time on demand.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

from framefold.data.question import Question
from framefold.data.shards.index import VIDEOS, Index
from framefold.data.shards.sample import Sample, parse_questions, read_metadata, unpack_sample, unpack_video
from framefold.data.shards.sources import error_reason, read_samples
from framefold.data.synthetic.difficulty import resolve_difficulty
from framefold.data.synthetic.questions import asked_types
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.timeline import EVIDENCE_KINDS
from framefold.errors import DataError
from framefold.evaluation.results.settings import SHARDS, SYNTHETIC
from framefold.files import bytes_digest

TWINS = re.compile(r"(train|val|test)-\d+-(\d{8})")  # keys of videos of which 2 i and 2 i + 1 are twins


@dataclass(frozen=True)
class HeldOutVideo:
    """A held-out video that the host has not encoded yet.

    Attributes:
        sample: video, or features of it, with its questions.
        number: position in the data.
        cluster: the same number for twins, which count as one observation in statistics.
        events: the last question of the sample is a placeholder, whose evidence is everything that can be asked about.
    """

    sample: Sample
    number: int
    cluster: int
    events: bool = False


class HeldOutSource(Protocol):
    """Held-out videos in a fixed order."""

    @property
    def types(self) -> set[str]:
        """Question types."""
        ...

    @property
    def evidence(self) -> bool:
        """Whether evidence is annotated."""
        ...

    def __len__(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """Return the data settings of a result."""
        ...

    def videos(self) -> Iterator[Callable[[], HeldOutVideo]]:
        """Yield a function for each video that creates it; it raises DataError if the video is damaged."""
        ...


@dataclass(frozen=True)
class SyntheticVideos:
    """The first videos of a recipe; 2 i and 2 i + 1 are twins."""

    recipe: Recipe
    count: int
    evidence: bool = True

    def __len__(self) -> int:
        return self.count

    @property
    def types(self) -> set[str]:
        """See :class:`HeldOutSource`."""
        return set(asked_types(resolve_difficulty(self.recipe.difficulty)))

    def describe(self) -> dict[str, Any]:
        """See :class:`HeldOutSource`."""
        recipe = self.recipe
        return {
            "kind": SYNTHETIC,
            "videos": self.count,
            "frames": recipe.frames[1],
            "seed": recipe.seed,
            "split": recipe.split,
            "difficulty": resolve_difficulty(recipe.difficulty).to_dict(),
            "style": recipe.style,
        }

    def videos(self) -> Iterator[Callable[[], HeldOutVideo]]:
        """See :class:`HeldOutSource`."""
        yield from (partial(self._video, number) for number in range(self.count))

    def _video(self, number: int) -> HeldOutVideo:
        video = self.recipe.video(number)
        sample = self.recipe.to_sample(video)
        boxes = (box for event in video.events if event.kind in EVIDENCE_KINDS for box in event.boxes)
        placeholder = Question("", "what happened ?", "yes", (), tuple(boxes))
        questions = (*sample.questions, placeholder)
        return HeldOutVideo(replace(sample, questions=questions), number, number // 2, events=True)


class ShardVideos:
    """The first samples of shards: videos, or features that a host has computed from videos.

    The constructor reads all samples once, because the digest in the settings of a result covers their content.

    Args:
        index: resolved shards.
        most: largest number of samples.
        frames: largest number of frames of a video that the host gets.

    Raises:
        DataError: there are no such shards, or no sample in them can be read.
    """

    def __init__(self, index: Index, most: int, frames: int) -> None:
        self.index, self.shards, self.frames, self.most = index, index.source, frames, most
        self.types: set[str] = set()
        self.evidence = False
        self.keys = list[str]()
        self.digest = bytes_digest(self._scan())
        if not self.types:
            raise DataError(f"no sample of {self.shards} could be read: 'framefold shards check' names the damage")

    def __len__(self) -> int:
        return len(self.keys)

    def describe(self) -> dict[str, Any]:
        """See :class:`HeldOutSource`."""
        description = {"kind": SHARDS, "shards": self.shards, "digest": self.digest}
        return description | {"videos": len(self.keys), "frames": self.frames if self.index.kind == VIDEOS else None}

    def videos(self) -> Iterator[Callable[[], HeldOutVideo]]:
        """See :class:`HeldOutSource`."""
        yield from (partial(self._video, number, files) for number, files in enumerate(self._samples()))

    def _video(self, number: int, files: dict[str, Any]) -> HeldOutVideo:
        return HeldOutVideo(self._unpack(files), number, self._cluster(number))

    def _unpack(self, files: dict[str, Any]) -> Sample:
        key = str(files["__key__"])
        if {"mp4", "json"} <= files.keys() and "safetensors" not in files:
            return unpack_video(key, read_metadata(key, files["json"]), files["mp4"], self.frames)
        return unpack_sample(key, files)

    def _cluster(self, number: int) -> int:
        """Return the number of the first twin, or the video's own."""
        twin = TWINS.fullmatch(self.keys[number])
        if twin is None or int(twin[2]) % 2 == 0:
            return number
        return self._numbers.get(f"{self.keys[number][:-8]}{int(twin[2]) - 1:08d}", number)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self.keys)}

    def _scan(self) -> Iterator[bytes]:
        """Record keys, question types and evidence of all samples; yield what the digest covers."""
        for files in self._samples():
            key = str(files["__key__"])
            self.keys.append(key)
            for name in sorted(files):
                if not name.startswith("__"):
                    yield f"{key} {name} {len(files[name])}\n".encode()
                    yield files[name]
            self._scan_questions(key, files)

    def _scan_questions(self, key: str, files: dict[str, Any]) -> None:
        try:
            questions = parse_questions(key, read_metadata(key, files["json"]))
        except (DataError, KeyError):
            return  # counted as damaged when it is unpacked
        self.types |= {question.type for question in questions}
        self.evidence |= any(question.evidence for question in questions)

    def _samples(self) -> Iterator[dict[str, Any]]:
        errors: list[Exception] = []

        def record(error: Exception) -> bool:
            errors.append(error)
            return True

        samples = (sample for shard in self.index.shards for sample in read_samples(shard.path, record))
        yield from itertools.islice(samples, self.most)
        if errors:
            raise DataError(
                f"{self.shards} cannot be read{error_reason(errors)}: 'framefold shards check' names the damage"
            )
