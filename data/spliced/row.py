"""A row of clips that is being put together: what may come into it, and where its clips go in the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from framefold.data.random_stream import RandomStream

from .clips import Clip, alike, normal

FEWEST = 3  # different clips in a video


class ClipRow:
    """A row in the making.

    Args:
        absent: clips that the video must not show, nor anything that may be taken for them.
        longest: frames of the longest video. briefest: frames of the shortest clip there is.

    Attributes:
        clips: so far, each once. length: frames so far. fewest: different clips it must have.
    """

    def __init__(self, absent: Sequence[Clip], longest: int, briefest: int) -> None:
        self.absent, self.longest, self.briefest = absent, longest, briefest
        self.clips: list[Clip] = []
        self.length, self.fewest = 0, FEWEST
        self.never = {normal(clip.label) for clip in absent} - {""}  # labels
        self.counted = ""
        self.recurring: Clip | None = None
        self.times = 1
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
        if label in self.never or any(overlap(clip, other) for other in self._by_source[clip.source]):
            return False
        if self.counted and (not label or alike(self.counted, clip.caption)):  # may show what is counted
            return False
        if self.recurring is not None and alike(self.recurring.caption, clip.caption):
            return False
        return not any(alike(clip.caption, other.caption) for other in self.absent)

    def count_label(self, label: str) -> None:
        """Let no further clip of a label in, nor one that may show what the label says."""
        self.counted = label
        self.never.add(label)

    def count_clip(self, clip: Clip, times: int) -> bool:
        """Put a clip in, to come so many times with others between, if there is room and nothing is alike."""
        others = max(0, max(FEWEST, times) - len(self.clips) - 1) * self.briefest
        if self.length + times * clip.length + others > self.longest:
            return False
        if any(alike(clip.caption, other.caption) for other in self.clips) or not self.add(clip):
            return False
        self.recurring, self.times, self.fewest = clip, times, max(FEWEST, times)
        self.length += (times - 1) * clip.length
        return True

    def arranged(self, draws: RandomStream) -> list[Clip]:
        """The clips in a drawn order, never the same one twice on end."""
        others = [clip for clip in self.clips if clip is not self.recurring]
        others = [others[place] for place in draws.permutation(len(others))]
        if self.recurring is None:
            return others
        gaps = set(draws.permutation(len(others) + 1)[: self.times])
        out: list[Clip] = []
        for place in range(len(others) + 1):
            out += [self.recurring] * (place in gaps) + others[place : place + 1]
        return out


def overlap(one: Clip, other: Clip) -> bool:
    """Whether two clips show some of the same frames."""
    return one.source == other.source and one.start < other.end and other.start < one.end


def shuffled(draws: RandomStream, clips: Sequence[Clip]) -> Iterator[Clip]:
    """Clips in a drawn order, as many as are asked for: costs nothing for those that are not."""
    moved: dict[int, int] = {}
    for place in range(len(clips)):
        other = draws.between(place, len(clips) - 1)
        yield clips[moved.get(other, other)]
        moved[other] = moved.get(place, place)
