"""Ascending times of the frames of a stream, whatever the times in its file are.

Files without times, with times that are partly missing or not in the order of display, and recordings that were joined
end to end, whose times start again, all become one clock that never steps back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from av.container import InputContainer
from av.video.stream import VideoStream

FAR = 1.0  # seconds, and
FAR_FRAMES = 16  # frames, by which times must jump back to count as a new recording: H.264 reorders up to 16 frames

GAP = 10.0  # seconds of a jump ahead that count as a new recording, in formats made for joining, as in FFmpeg
DAY = 86_400.0  # the same in other formats, where a still picture may be displayed for long

LARGEST_SCALE = 1001  # ticks are divided into at most this many parts, so that a frame lasts a whole number of them

TS_DISCONT = 0x0200  # AVFMT_TS_DISCONT, a flag of formats

USUAL_RATE = Fraction(25)  # of files that do not tell, as in FFmpeg


@dataclass(frozen=True)
class FrameStamp:
    """What a decoder reports about a frame, in ticks of its stream.

    Attributes:
        pts: presentation time.
        dts: decoding time of the packet that completed the frame.
        duration: how long it is displayed; 0 if unknown.
    """

    pts: int | None
    dts: int | None
    duration: int


@dataclass(frozen=True)
class StreamClock:
    """Clock of a stream.

    Attributes:
        time_base: seconds per tick.
        rate: frames per second, as FFmpeg guesses it from file and stream.
        joined: the format permits jumps of the clock, since recordings are joined by appending files.
    """

    time_base: Fraction
    rate: Fraction
    joined: bool

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> StreamClock:
        """Return the clock of a stream."""
        rate = stream.guessed_rate or stream.average_rate or stream.base_rate or USUAL_RATE
        return cls(stream.time_base or 1 / rate, rate, bool(container.format.flags & TS_DISCONT))

    @property
    def longest(self) -> float:
        """Ticks of the longest jump ahead that is not a new recording."""
        return (GAP if self.joined else DAY) / float(self.time_base)

    @property
    def step(self) -> Fraction:
        """Ticks per frame at the mean rate."""
        return 1 / (self.rate * self.time_base)


def frame_length(duration: int, clock: StreamClock) -> int:
    """Return for how many ticks a frame is displayed: the duration in the file, or that at the mean rate."""
    return duration if duration > 0 else max(1, round(clock.step))


def ascending_ticks(stamps: Sequence[FrameStamp], clock: StreamClock) -> tuple[list[int], int, Fraction]:
    """Return ascending ticks for frames in the order of display, the duration of all in ticks, and seconds per tick.

    Times that are only in the wrong order are sorted. Others that step back a little, or that are missing, are replaced
    at the mean rate. After a jump far back, the clock continues at the end of what came before. The ticks may be
    fractions of those of the stream.

    Args:
        stamps: at least one.
        clock: of the stream.
    """
    step = clock.step.limit_denominator(LARGEST_SCALE)
    scale = step.denominator
    each = max(1, step.numerator)
    times = [None if time is None else time * scale for time in _fewest_defects(stamps)]
    _sort_late(times, each)
    lengths = [stamp.duration * scale if stamp.duration > 0 else each for stamp in stamps]
    second = scale / clock.time_base
    far, gap = max(FAR * second, FAR_FRAMES * each), clock.longest * scale
    known = next((number for number, time in enumerate(times) if time is not None), 0)
    ticks, shift = [(times[known] or 0) - known * each], 0
    for time, length in zip(times[1:], lengths, strict=False):
        end = ticks[-1] + length
        if time is None:
            ticks.append(ticks[-1] + each)
            continue
        time += shift
        if ticks[-1] - time > far or time - end > gap:
            shift += end - time
            time = end
        ticks.append(time if time > ticks[-1] else ticks[-1] + each)
    return ticks, ticks[-1] - ticks[0] + lengths[-1], clock.time_base / scale


def _fewest_defects(stamps: Sequence[FrameStamp]) -> list[int | None]:
    """Return the presentation times, or the decoding times if fewer of these are missing or step back.

    Decoding times ascend in the order of display where a format has no others, as AVI with B-frames.
    """

    def defects(times: list[int | None]) -> int:
        steps = zip(times, times[1:], strict=False)
        back = sum(time is not None and after is not None and after <= time for time, after in steps)
        return back + sum(time is None for time in times)

    return min([stamp.pts for stamp in stamps], [stamp.dts for stamp in stamps], key=defects)


def _sort_late(times: list[int | None], step: int) -> None:
    """Sort times in place where frames are late: where the times around them leave room for them."""
    number = 1
    while number < len(times):
        start, end = _disordered(times, number)
        if start < end:
            part = sorted(time for time in times[start:end] if time is not None)
            before = [time for time in times[start - 1 : start] if time is not None] if start else []
            if all(3 * (after - time) >= 2 * step for time, after in itertools.pairwise([*before, *part])):
                times[start:end] = part
        number = max(number + 1, end)


def _disordered(times: Sequence[int | None], number: int) -> tuple[int, int]:
    """Return the range of times that are not in order because this one is late; an empty one if it is not late.

    The range lies between earlier and later times; without these, the clock has jumped.
    """
    time, before = times[number], times[number - 1]
    start, end = number - 1, number + 1
    if time is None or before is None or time > before:
        return number, number
    while end < len(times) and (after := times[end]) is not None and after <= before:
        time, end = min(time, after), end + 1
    while start > 0 and (earlier := times[start - 1]) is not None and earlier > time:
        start -= 1
    if max(end - number, number - start) > FAR_FRAMES or (start == 0 and end == len(times)):
        return number, number
    return start, end
