"""Which clips make which spliced video, and in which order: drawn from a seed before a frame is decoded.

What is asked later must not be told by the text alone, so it is decided here what the text could give away. Videos 2 i
and 2 i + 1 are twins: each shows a few clips that the other must not show, and both are asked about all of these, so
that whatever a caption says, it is there as often as not. How often something is to be counted is drawn before what
else happens.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from framefold.data.random_stream import RandomStream
from framefold.data.splits import SPLITS
from framefold.errors import DataError

from .clips import Clip, alike, normal
from .row import FEWEST, ClipRow, overlap, shuffled

MOST_COUNTED = 4

MOST_SWAPPED = 3  # clips that one of two twins shows and the other does not

PATIENCE = 500  # clips in a row that do not fit before a row that is long enough is left as it is

_SWAPPED, _ROW = 10, 11  # parts of the RNG key

Pair = tuple[list[Clip], list[Clip]]


@dataclass(frozen=True)
class Plan:
    """A video to be.

    Attributes:
        key: seed, split and number of the video.
        clips: one after the other; only a clip that is to be counted comes more than once.
        present: some of them that the twin does not show. absent: as many that the twin shows; their labels are not in
            this video, nor a caption that may mean the same.
        counted: label that is asked for, or "" if it is the recurring clip, if any.
        recurring: id of that clip.
    """

    key: tuple[int, str, int]
    clips: tuple[Clip, ...]
    present: tuple[Clip, ...] = ()
    absent: tuple[Clip, ...] = ()
    counted: str = ""
    recurring: str = ""


class ClipPool:
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
        # Of fewer, the label would tell that the number is low.
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

    def plans(self, seed: int, videos: int) -> list[Plan]:
        """Videos 0 to videos - 1.

        Raises:
            DataError: no row of whole clips is as long as a video must be.
        """
        return [plan for pair in range(-(-videos // 2)) for plan in self._twins(seed, pair)][:videos]

    def _twins(self, seed: int, pair: int) -> tuple[Plan, Plan]:
        """Videos 2 pair and 2 pair + 1."""
        most = min(MOST_SWAPPED, (self.labels - 1) // 2 if self.labels > 2 else 1) if self.labels else MOST_SWAPPED
        tries = [(swapped, True) for swapped in range(most, -1, -1)]
        # A small pool cannot give everything: then nothing is swapped, or nothing counted, now this, now that.
        tries.insert(len(tries) - pair % 2, (1, False))
        for swapped, count in (*tries, (0, False)):
            plans = self._try(seed, pair, swapped, count)
            if plans is not None:
                return plans
        raise DataError(self._too_few())

    def _try(self, seed: int, pair: int, swapped: int, count: bool) -> tuple[Plan, Plan] | None:
        key = (swapped, int(count))
        sides = self._swapped(RandomStream(seed, SPLITS[self.split], pair, _SWAPPED, *key), swapped)
        if sides is None:
            return None
        plans = []
        for side in range(2):
            index = 2 * pair + side
            draws = RandomStream(seed, SPLITS[self.split], index, _ROW, *key)
            plan = self._plan((seed, self.split, index), draws, sides[side], sides[1 - side], count)
            if plan is None:
                return None
            plans.append(plan)
        return plans[0], plans[1]

    def _swapped(self, draws: RandomStream, count: int) -> Pair | None:
        """So many clips for each of two twins; no two are alike, of the same label or overlap."""
        taken: list[Clip] = []
        for clip in itertools.islice(shuffled(draws, self.clips), PATIENCE):
            if len(taken) == 2 * count:
                break
            label = normal(clip.label)
            if self.labels and (not label or any(label == normal(other.label) for other in taken)):
                continue
            if not any(alike(clip.caption, other.caption) or overlap(clip, other) for other in taken):
                taken.append(clip)
        return (taken[::2], taken[1::2]) if len(taken) == 2 * count else None

    def _plan(
        self, key: tuple[int, str, int], draws: RandomStream, present: list[Clip], absent: list[Clip], count: bool
    ) -> Plan | None:
        row = ClipRow(absent, self.longest, self.briefest)
        if not all(row.add(clip) for clip in present):
            return None
        times = draws.between(1, MOST_COUNTED)
        if count and not (
            self._count_label(draws, row, times) if self.countable else self._count_clip(draws, row, times)
        ):
            return None
        self._fill(row, shuffled(draws, self.clips), draws.between(self.shortest, self.longest))
        if len(row.clips) < row.fewest or row.length < self.shortest:
            return None
        recurring = row.recurring.id if row.recurring else ""
        return Plan(key, tuple(row.arranged(draws)), tuple(present), tuple(absent), row.counted, recurring)

    def _count_label(self, draws: RandomStream, row: ClipRow, times: int) -> bool:
        """Put clips of one label into a row, which has none yet."""
        here = {normal(clip.label) for clip in row.clips}
        labels = [
            label
            for label in sorted(self.countable.keys() - row.never - here)
            if not any(alike(label, clip.caption) for clip in row.clips)
        ]
        if not labels:
            return False
        label, before = draws.pick(labels), len(row.clips)
        for clip in shuffled(draws, self.countable[label]):
            if len(row.clips) == before + times:
                break
            row.add(clip)
        row.count_label(label)
        return len(row.clips) > before

    def _count_clip(self, draws: RandomStream, row: ClipRow, times: int) -> bool:
        """Put one clip into a row, to come so many times, or as often as there is room for any."""
        some = list(itertools.islice(shuffled(draws, self.clips), PATIENCE))
        return any(row.count_clip(clip, fewer) for fewer in range(times, 0, -1) for clip in some)

    def _fill(self, row: ClipRow, order: Iterator[Clip], target: int) -> None:
        missed = 0
        for clip in order:
            enough = len(row.clips) >= row.fewest
            if enough and (row.length >= target or missed > PATIENCE and row.length >= self.shortest):
                return
            missed = 0 if row.add(clip) else missed + 1
