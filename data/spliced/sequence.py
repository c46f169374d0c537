"""The sequence of clips of a spliced video, while it is being assembled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from framefold.data.random_stream import RandomStream

from .clips import Clip, normalize_caption, similar_captions

MIN_CLIPS = 3  # distinct clips in a video


class ClipSequence:
    """Clips selected for a video, with the constraints on further clips.

    Args:
        absent: clips that the video must not show, and neither any clip that may be mistaken for them.
        max_frames: frames of the longest video.
        min_clip_frames: frames of the shortest clip available.

    Attributes:
        clips: clips so far, each once.
        length: frames so far.
        min_clips: number of distinct clips that the video must have.
        excluded_labels: normalized labels that no further clip may have.
        counted: normalized label that a question counts, or "".
        recurring: clip that is shown several times, if any.
        times: how often it is shown.
    """

    def __init__(self, absent: Sequence[Clip], max_frames: int, min_clip_frames: int) -> None:
        self.absent, self.max_frames, self.min_clip_frames = absent, max_frames, min_clip_frames
        self.clips: list[Clip] = []
        self.length, self.min_clips = 0, MIN_CLIPS
        self.excluded_labels = {normalize_caption(clip.label) for clip in absent} - {""}
        self.counted = ""
        self.recurring: Clip | None = None
        self.times = 1
        self._by_source: dict[str, list[Clip]] = defaultdict(list)
        for clip in absent:
            self._by_source[clip.source].append(clip)

    def add(self, clip: Clip) -> bool:
        """Add a clip if the constraints permit it; return whether it was added."""
        reserved = max(0, self.min_clips - len(self.clips) - 1) * self.min_clip_frames  # for clips still required
        if self.length + clip.length + reserved > self.max_frames or not self._permits(clip):
            return False
        self.clips.append(clip)
        self._by_source[clip.source].append(clip)
        self.length += clip.length
        return True

    def _permits(self, clip: Clip) -> bool:
        label = normalize_caption(clip.label)
        if label in self.excluded_labels or any(clips_overlap(clip, other) for other in self._by_source[clip.source]):
            return False
        if self.counted and (not label or similar_captions(self.counted, clip.caption)):  # may show what is counted
            return False
        if self.recurring is not None and similar_captions(self.recurring.caption, clip.caption):
            return False
        return not any(similar_captions(clip.caption, other.caption) for other in self.absent)

    def count_label(self, label: str) -> None:
        """Count a label: exclude further clips with it, and clips that may show what the label says."""
        self.counted = label
        self.excluded_labels.add(label)

    def count_clip(self, clip: Clip, times: int) -> bool:
        """Add a clip that is shown several times with others in between, if there is room and no similar caption.

        Returns:
            Whether it was added.
        """
        reserved = max(0, max(MIN_CLIPS, times) - len(self.clips) - 1) * self.min_clip_frames
        if self.length + times * clip.length + reserved > self.max_frames:
            return False
        if any(similar_captions(clip.caption, other.caption) for other in self.clips) or not self.add(clip):
            return False
        self.recurring, self.times, self.min_clips = clip, times, max(MIN_CLIPS, times)
        self.length += (times - 1) * clip.length
        return True

    def arrange(self, stream: RandomStream) -> list[Clip]:
        """Return the clips in a random order, with repetitions but never the same clip twice in a row."""
        others = [clip for clip in self.clips if clip is not self.recurring]
        others = [others[position] for position in stream.permutation(len(others))]
        if self.recurring is None:
            return others
        gaps = set(stream.permutation(len(others) + 1)[: self.times])
        arranged: list[Clip] = []
        for position in range(len(others) + 1):
            arranged += [self.recurring] * (position in gaps) + others[position : position + 1]
        return arranged


def clips_overlap(one: Clip, other: Clip) -> bool:
    """Return whether two clips share frames of a file."""
    return one.source == other.source and one.start < other.end and other.start < one.end


def shuffle_lazily(stream: RandomStream, clips: Sequence[Clip]) -> Iterator[Clip]:
    """Yield clips in a random order; the cost is proportional to the number of clips taken."""
    moved: dict[int, int] = {}
    for position in range(len(clips)):
        other = stream.between(position, len(clips) - 1)
        yield clips[moved.get(other, other)]
        moved[other] = moved.get(position, position)
