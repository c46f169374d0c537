"""A row of clips that is being put together: what may come into it, and where its clips go in the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from .clips import Clip, alike, normal
from .draws import Draws

FEWEST = 3  # different clips in a video


class Row:
    """A row in the making.

    Args:
        absent: clips that the video must not show, nor anything that may be taken for them.
        longest: frames of the longest video. briefest: frames of the shortest clip there is.

    Attributes:
        never: labels that may not come (any more). clips: so far. length: frames so far. fewest: clips it must have.
    """

    def __init__(self, absent: Sequence[Clip], longest: int, briefest: int) -> None:
        self.absent, self.longest, self.briefest = absent, longest, briefest
        self.never = {normal(clip.label) for clip in absent} - {""}  # labels
        self.counted = ""
        self.clips: list[Clip] = []
        self.length = 0
        self.times = 1  # of the first clip
        self.fewest = FEWEST  # different clips
        self._by_source: dict[str, list[Clip]] = defaultdict(list)
        for clip in absent:
            self._by_source[clip.source].append(clip)

    def add(self, clip: Clip) -> bool:
        """Put a clip in, if it may come and fits."""
        after = max(0, self.fewest - len(self.clips) - 1) * self.briefest  # room that others will need
        if self.length + clip.length + after > self.longest or not self._may(clip):
            return False
        self.clips.append(clip)
        self._by_source[clip.source].append(clip)
        self.length += clip.length
        return True

    def _may(self, clip: Clip) -> bool:
        label = normal(clip.label)
        if label in self.never or any(_overlap(clip, other) for other in self._by_source[clip.source]):
            return False
        if self.counted and (not label or alike(self.counted, clip.caption)):  # may show what is counted
            return False
        if self.times > 1 and alike(self.clips[0].caption, clip.caption):
            return False
        return not any(alike(clip.caption, other.caption) for other in self.absent)

    def only(self, label: str) -> None:
        """Let no further clip of a label in, nor one that may show what the label says."""
        self.counted = label
        self.never.add(label)

    def fitting(self, clip: Clip) -> int:
        """How often a clip may come into the empty row, with others between."""
        if not self._may(clip):
            return 0
        between = (self.longest + self.briefest) // (clip.length + self.briefest)
        return min(between, (self.longest - (FEWEST - 1) * self.briefest) // clip.length)

    def repeat(self, clip: Clip, times: int) -> None:
        """Put a clip in, to come so many times."""
        self.add(clip)
        self.times, self.length, self.fewest = times, times * clip.length, max(FEWEST, times)

    def arranged(self, draws: Draws) -> list[Clip]:
        """The clips in a drawn order, never the same one twice on end."""
        if self.times == 1:
            return [self.clips[place] for place in draws.permutation(len(self.clips))]
        others = [self.clips[1 + place] for place in draws.permutation(len(self.clips) - 1)]
        gaps = set(draws.permutation(len(others) + 1)[: self.times])
        out: list[Clip] = []
        for place in range(len(others) + 1):
            out += [self.clips[0]] * (place in gaps) + others[place : place + 1]
        return out


def _overlap(one: Clip, other: Clip) -> bool:
    return one.source == other.source and one.start < other.end and other.start < one.end


def shuffled(draws: Draws, clips: Sequence[Clip]) -> Iterator[Clip]:
    """Clips in a drawn order, as many as are asked for: costs nothing for those that are not."""
    moved: dict[int, int] = {}
    for place in range(len(clips)):
        other = draws.between(place, len(clips) - 1)
        yield clips[moved.get(other, other)]
        moved[other] = moved.get(place, place)
