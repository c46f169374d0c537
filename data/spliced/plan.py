"""Planning of spliced videos: the clips of every video and their order, chosen from a seed before decoding.

The plan ensures that the text of a question does not reveal its answer. Videos 2 i and 2 i + 1 are twins: each shows a
few clips that the other must not show, and questions about all of these are asked for both, so that every caption is
present as often as absent. The number to be counted is chosen before the rest of the video.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from framefold.data.random_stream import RandomStream
from framefold.data.splits import SPLITS
from framefold.errors import DataError

from .clips import Clip, normalize_caption, similar_captions
from .sequence import MIN_CLIPS, ClipSequence, clips_overlap, shuffle_lazily

MAX_COUNTED = 4

MAX_SWAPPED = 3  # clips that only one of two twins shows

PATIENCE = 500  # consecutive clips that do not fit, after which a sequence of sufficient length is accepted

_SWAPPED, _SEQUENCE = 10, 11  # parts of the random key

Pair = tuple[list[Clip], list[Clip]]


@dataclass(frozen=True)
class VideoPlan:
    """The clips of a spliced video.

    Attributes:
        key: seed, split and number of the video.
        clips: the clips in order; only the recurring clip appears more than once.
        present: clips in it that its twin does not show.
        absent: as many clips that only its twin shows; this video has none of their labels and no similar caption.
        counted: normalized label that a question counts, or "".
        recurring: id of the clip that a question counts, or "".
    """

    key: tuple[int, str, int]
    clips: tuple[Clip, ...]
    present: tuple[Clip, ...] = ()
    absent: tuple[Clip, ...] = ()
    counted: str = ""
    recurring: str = ""


class ClipPool:
    """The clips of a split, from which videos are planned.

    Args:
        clips: clips in order of their ids.
        split: name of the split.
        shortest: frames of the shortest video.
        longest: frames of the longest video.
        fps: stored frames per second, for messages.

    Raises:
        DataError: the clips are too few or too short for one video.
    """

    def __init__(self, clips: list[Clip], split: str, shortest: int, longest: int, fps: float) -> None:
        if len({normalize_caption(clip.label) for clip in clips} - {""}) == 1:  # all clips share the label
            clips = [replace(clip, label="") for clip in clips]
        self.clips, self.split, self.fps = clips, split, fps
        self.shortest, self.longest = shortest, longest
        by_label: dict[str, list[Clip]] = defaultdict(list)
        for clip in clips:
            by_label[normalize_caption(clip.label)].append(clip)
        self.labels = len(by_label.keys() - {""})
        # With fewer clips, the label would reveal that the number is low.
        self.countable = {label: some for label, some in by_label.items() if label and len(some) >= MAX_COUNTED}
        self.min_clip_frames = min((clip.length for clip in clips), default=0)
        if len(clips) < MIN_CLIPS or sum(clip.length for clip in clips) < shortest:
            raise DataError(self._too_few())

    def _too_few(self) -> str:
        seconds = sum(clip.length for clip in self.clips) / self.fps
        return (
            f"the {len(self.clips)} usable clips of split {self.split} have {seconds:g} seconds in total and cannot be "
            f"combined to a video of {self.shortest / self.fps:g} to {self.longest / self.fps:g} seconds with at least "
            f"{MIN_CLIPS} clips: provide more clips, or a wider range of --minutes"
        )

    def plans(self, seed: int, videos: int) -> list[VideoPlan]:
        """Plan videos 0 to videos - 1.

        Raises:
            DataError: no combination of clips has the length of a video.
        """
        return [plan for pair in range(-(-videos // 2)) for plan in self._twins(seed, pair)][:videos]

    def _twins(self, seed: int, pair: int) -> tuple[VideoPlan, VideoPlan]:
        """Plan videos 2 pair and 2 pair + 1."""
        most = min(MAX_SWAPPED, (self.labels - 1) // 2 if self.labels > 2 else 1) if self.labels else MAX_SWAPPED
        tries = [(swapped, True) for swapped in range(most, -1, -1)]
        # A small pool does not permit both swapping and counting; pairs then alternate between the two.
        tries.insert(len(tries) - pair % 2, (1, False))
        for swapped, count in (*tries, (0, False)):
            plans = self._try(seed, pair, swapped, count)
            if plans is not None:
                return plans
        raise DataError(self._too_few())

    def _try(self, seed: int, pair: int, swapped: int, count: bool) -> tuple[VideoPlan, VideoPlan] | None:
        key = (swapped, int(count))
        sides = self._sample_swapped(RandomStream(seed, SPLITS[self.split], pair, _SWAPPED, *key), swapped)
        if sides is None:
            return None
        plans = []
        for side in range(2):
            index = 2 * pair + side
            stream = RandomStream(seed, SPLITS[self.split], index, _SEQUENCE, *key)
            plan = self._plan((seed, self.split, index), stream, sides[side], sides[1 - side], count)
            if plan is None:
                return None
            plans.append(plan)
        return plans[0], plans[1]

    def _sample_swapped(self, stream: RandomStream, count: int) -> Pair | None:
        """Sample `count` clips for each of two twins; no two are similar, have the same label or overlap."""
        taken: list[Clip] = []
        for clip in itertools.islice(shuffle_lazily(stream, self.clips), PATIENCE):
            if len(taken) == 2 * count:
                break
            label = normalize_caption(clip.label)
            if self.labels and (not label or any(label == normalize_caption(other.label) for other in taken)):
                continue
            if not any(similar_captions(clip.caption, other.caption) or clips_overlap(clip, other) for other in taken):
                taken.append(clip)
        return (taken[::2], taken[1::2]) if len(taken) == 2 * count else None

    def _plan(
        self, key: tuple[int, str, int], stream: RandomStream, present: list[Clip], absent: list[Clip], count: bool
    ) -> VideoPlan | None:
        sequence = ClipSequence(absent, self.longest, self.min_clip_frames)
        if not all(sequence.add(clip) for clip in present):
            return None
        times = stream.between(1, MAX_COUNTED)
        add_counted = self._add_counted_label if self.countable else self._add_counted_clip
        if count and not add_counted(stream, sequence, times):
            return None
        self._fill(sequence, shuffle_lazily(stream, self.clips), stream.between(self.shortest, self.longest))
        if len(sequence.clips) < sequence.min_clips or sequence.length < self.shortest:
            return None
        recurring = sequence.recurring.id if sequence.recurring else ""
        clips = tuple(sequence.arrange(stream))
        return VideoPlan(key, clips, tuple(present), tuple(absent), sequence.counted, recurring)

    def _add_counted_label(self, stream: RandomStream, sequence: ClipSequence, times: int) -> bool:
        """Add clips of one label that the sequence does not have yet; return whether any was added."""
        used = {normalize_caption(clip.label) for clip in sequence.clips}
        labels = [
            label
            for label in sorted(self.countable.keys() - sequence.excluded_labels - used)
            if not any(similar_captions(label, clip.caption) for clip in sequence.clips)
        ]
        if not labels:
            return False
        label, before = stream.pick(labels), len(sequence.clips)
        for clip in shuffle_lazily(stream, self.countable[label]):
            if len(sequence.clips) == before + times:
                break
            sequence.add(clip)
        sequence.count_label(label)
        return len(sequence.clips) > before

    def _add_counted_clip(self, stream: RandomStream, sequence: ClipSequence, times: int) -> bool:
        """Add one clip that is shown `times` times, or as often as there is room for; return whether it was added."""
        candidates = list(itertools.islice(shuffle_lazily(stream, self.clips), PATIENCE))
        return any(sequence.count_clip(clip, fewer) for fewer in range(times, 0, -1) for clip in candidates)

    def _fill(self, sequence: ClipSequence, order: Iterator[Clip], target: int) -> None:
        """Add clips until the sequence has the target length."""
        rejected = 0  # consecutive clips that do not fit
        for clip in order:
            enough = len(sequence.clips) >= sequence.min_clips
            if enough and (sequence.length >= target or rejected > PATIENCE and sequence.length >= self.shortest):
                return
            rejected = 0 if sequence.add(clip) else rejected + 1
