"""Which clips make which spliced video, and in which order: drawn from a seed before a frame is decoded.

What is asked later must not be told by the text alone, so it is decided here what the text could give away: clips that
the video must not hold (negatives) are drawn first and in the same way as those that it does hold, and how often
something is to be counted is drawn before what else happens.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .clips import Clip, alike, normal
from .draws import Draws
from .errors import DataError
from .splice_row import FEWEST, Row, shuffled
from .synthetic import SPLITS

MOST_COUNTED = 4
NEGATIVES = 6
PATIENCE = 500  # clips in a row that do not fit before a row that is long enough is left as it is
_ROW = 11  # part of the RNG key


@dataclass(frozen=True)
class Plan:
    """A video to be.

    Attributes:
        key: seed, split and number of the video.
        clips: one after the other; only a clip that is to be counted comes more than once.
        negatives: clips that are not in the video; nor is their label, or a caption that may mean the same.
        counted: label that is asked for, or "" if it is the recurring clip, if any.
        recurring: id of that clip.
    """

    key: tuple[int, str, int]
    clips: tuple[Clip, ...]
    negatives: tuple[Clip, ...] = ()
    counted: str = ""
    recurring: str = ""

    def single(self) -> list[int]:
        """Places of the clips that were drawn for nothing but their turn."""
        return [
            place
            for place, clip in enumerate(self.clips)
            if clip.id != self.recurring and not (self.counted and normal(clip.label) == self.counted)
        ]


class Pool:
    """The clips of a split, and rows of them.

    Args:
        clips: in order of their ids. split: their name.
        shortest, longest: frames of a video.
        fps: stored frames a second, for messages.

    Raises:
        DataError: they are too few or too short for one video.
    """

    def __init__(self, clips: list[Clip], split: str, shortest: int, longest: int, fps: float) -> None:
        if len({normal(clip.label) for clip in clips} - {""}) == 1:  # says nothing that is not true of all
            clips = [replace(clip, label="") for clip in clips]
        self.clips, self.split, self.fps = clips, split, fps
        self.shortest, self.longest = shortest, longest
        by_label: dict[str, list[Clip]] = defaultdict(list)
        for clip in clips:
            by_label[normal(clip.label)].append(clip)
        self.labels = len(by_label.keys() - {""})
        # Fewer than can be asked for, and the label would tell that the number is low.
        self.countable = {label: some for label, some in by_label.items() if label and len(some) >= MOST_COUNTED}
        self.briefest = min((clip.length for clip in clips), default=0)
        if len(clips) < FEWEST or sum(clip.length for clip in clips) < shortest:
            raise DataError(self._too_few())

    def _too_few(self) -> str:
        seconds = sum(clip.length for clip in self.clips) / self.fps
        return (
            f"the {len(self.clips)} usable clips of split {self.split} have {seconds:g} seconds in all, whole clips of "
            f"which make no video of {self.shortest / self.fps:g} to {self.longest / self.fps:g} seconds in at least "
            f"{FEWEST} clips: bring more clips, or a wider range of --minutes"
        )

    def plan(self, seed: int, index: int) -> Plan:
        """Video number `index`.

        Raises:
            DataError: no row of whole clips is as long as a video must be.
        """
        key = (seed, self.split, index)
        numbers = (seed, SPLITS[self.split], index, _ROW)
        either = [(True, False), (False, True)]
        # What a small pool cannot give is left out: negatives, or what is counted, or both.
        tries = [(True, True), *(either if index % 2 else either[::-1]), (False, False)]
        for attempt, (negatives, count) in enumerate(tries):
            plan = self._try(key, Draws(*numbers, attempt), negatives, count)
            if plan is not None:
                return plan
        raise DataError(self._too_few())

    def _try(self, key: tuple[int, str, int], draws: Draws, negatives: bool, count: bool) -> Plan | None:
        order = shuffled(draws, self.clips)
        absent, order = self._negatives(order) if negatives else ([], order)
        if negatives and not absent:
            return None
        row = Row(absent, self.longest, self.briefest)
        times = draws.between(1, MOST_COUNTED) if count else 1
        counted = recurring = ""
        if count and self.countable:
            counted = self._count_label(draws, row, times)
        elif count:
            recurring = self._count_clip(draws, row, times)
        if count and not (counted or recurring):
            return None
        self._fill(row, order, draws.between(self.shortest, self.longest))
        if len(row.clips) < row.fewest or row.length < self.shortest:
            return None
        return Plan(key, tuple(row.arranged(draws)), tuple(absent), counted, recurring)

    def _negatives(self, order: Iterator[Clip]) -> tuple[list[Clip], Iterator[Clip]]:
        """The first clips of an order, of so few labels that enough are left for the video; and the other clips."""
        most, most_labels = min(NEGATIVES, max(1, len(self.clips) // 4)), max(1, self.labels // 4)
        taken, passed, labels = list[Clip](), list[Clip](), set[str]()
        for clip in itertools.islice(order, PATIENCE):
            label = {normal(clip.label)} - {""}
            if len(labels | label) > most_labels or any(alike(clip.caption, other.caption) for other in taken):
                passed.append(clip)
                continue
            taken.append(clip)
            labels |= label
            if len(taken) == most:
                break
        return taken, itertools.chain(passed, order)

    def _count_label(self, draws: Draws, row: Row, times: int) -> str:
        """Put clips of one label into a row, and say which it is."""
        labels = sorted(self.countable.keys() - row.never)
        if not labels:
            return ""
        label = draws.pick(labels)
        for clip in shuffled(draws, self.countable[label]):
            if len(row.clips) == times:
                break
            row.add(clip)
        row.only(label)
        return label if row.clips else ""

    def _count_clip(self, draws: Draws, row: Row, times: int) -> str:
        """Put one clip into a row, to come several times, and say which it is."""
        for clip in itertools.islice(shuffled(draws, self.clips), PATIENCE):
            most = row.fitting(clip)
            if most:
                row.repeat(clip, min(times, most))
                return clip.id
        return ""

    def _fill(self, row: Row, order: Iterator[Clip], target: int) -> None:
        missed = 0
        for clip in order:
            enough = len(row.clips) >= row.fewest
            if enough and (row.length >= target or missed > PATIENCE and row.length >= self.shortest):
                return
            missed = 0 if row.add(clip) else missed + 1
