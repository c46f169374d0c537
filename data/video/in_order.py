"""Frames of files that are not ordinary: the complete file is decoded in its order, twice, and nothing is sought.

The first time gives the times and finds the damage, the second one the requested frames.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from framefold.errors import DataError

from .clock import GAP, FrameStamp, StreamClock, ascending_ticks
from .main_stream import open_video
from .picture import FrameConverter

TOLERANCE = 1.0  # seconds: a good frame that is nearer replaces one that depends on a lost frame

SILENT = ("hevc", "libdav1d")  # decoders that return one frame for each packet, or nothing at all if it is damaged


class State(enum.IntEnum):
    """Quality of a frame."""

    GOOD = 0
    DOUBTFUL = 1  # depends on a lost frame
    BAD = 2  # depends on a lost key frame
    LOST = 3


class InOrderDecoder:
    """Decodes all frames in the order of the file, and passes over packets that do not decode.

    Args:
        container: an open file.
        stream: its video.

    Attributes:
        errors: number of packets that did not decode.
        announced: times of the packets that ought to give frames.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container, self.stream = container, stream
        self.errors, self.announced = 0, list[FrameStamp]()
        self._state = State.GOOD  # of frames that are not key frames
        self._lost: int | None = None  # presentation time of the last packet that did not decode

    def __iter__(self) -> Iterator[tuple[VideoFrame, State]]:
        for packet in self._packets():
            for frame in self._decode(packet):
                if frame.key_frame and (self._lost is None or frame.pts is None or frame.pts > self._lost):
                    self._state = State.GOOD  # a key frame from before the lost one may be displayed only now
                yield frame, State.GOOD if frame.key_frame else self._state

    def _packets(self) -> Iterator[Packet | None]:
        """Yield the packets, then None; a file that cannot be read further ends there."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    if not packet.is_discard:
                        self.announced.append(FrameStamp(packet.pts, packet.dts, packet.duration or 0))
                    yield packet
        except av.FFmpegError:
            self.errors += 1
        yield None

    def _decode(self, packet: Packet | None) -> list[VideoFrame]:
        try:
            return self.stream.codec_context.decode(packet)
        except av.FFmpegError:
            self.errors += 1
            if packet is not None:
                self._state = max(self._state, State.BAD if self._is_key(packet) else State.DOUBTFUL)
                self._lost = packet.pts
            return []

    def _is_key(self, packet: Packet) -> bool:
        """Whether a damaged packet was a key frame, which FFmpeg may see in the index of the file only."""
        entries = self.stream.index_entries
        return packet.is_keyframe or any(entry.is_keyframe and entry.pos == packet.pos for entry in entries)


@dataclass(frozen=True)
class _Survey:
    """What decoding a complete file shows.

    Attributes:
        stamps: times of all frames.
        states: quality of all frames.
        numbers: number of each frame among those that decode; -1 if it is lost.
        damaged: number of frames that do not decode.
        threads: whether several threads decode this file in the same way.
        clock: of the stream.
    """

    stamps: list[FrameStamp]
    states: list[State]
    numbers: list[int]
    damaged: int
    threads: bool
    clock: StreamClock


class InOrderReader:
    """Decodes a file from its start to its end.

    Args:
        name: path of the file.

    Raises:
        DataError: no frame can be decoded.
    """

    def __init__(self, name: str) -> None:
        self.name, self._survey = name, _survey(name)
        if max(self._survey.numbers, default=-1) < 0:
            raise DataError(f"no frame could be decoded from {name}")
        self.ticks, self.span, self.clock = ascending_ticks(self._survey.stamps, self._survey.clock)
        self.total, damaged = len(self.ticks), self._survey.damaged
        if damaged:
            text = f"{damaged} of its frames do not decode, the nearest good ones are used instead"
            warnings.warn(f"{name} is damaged: {text}", stacklevel=2)

    def available(self, positions: Sequence[int]) -> list[int]:
        """Return the positions of the frames to show for these: the nearest good ones."""
        ticks, tolerance = np.array(self.ticks, np.float64), TOLERANCE / float(self.clock)
        penalties = np.array([0.0, tolerance, 2.0 * self.span + tolerance, np.inf])[self._survey.states]
        found = list(positions)
        for number, position in enumerate(positions):
            if self._survey.states[position] != State.GOOD:
                found[number] = int((np.abs(ticks - ticks[position]) + penalties).argmin())
        return found

    def decode(self, positions: Sequence[int], converter: FrameConverter) -> Iterator[np.ndarray]:
        """Yield the frames at ascending positions of the file as pictures."""
        wanted = [self._survey.numbers[position] for position in positions]
        with open_video(self.name, self._survey.threads) as (container, stream):
            for number, (frame, _) in enumerate(InOrderDecoder(container, stream)):
                if not wanted:
                    return
                converter.set_size(frame)
                if number == wanted[0]:
                    yield converter(frame)
                    del wanted[0]


def _survey(name: str) -> _Survey:
    """Decode a file; without threads if there is damage, since only then it is known which packets have it."""
    for threads in (True, False):
        with open_video(name, threads) as (container, stream):
            clock = StreamClock.of(container, stream)
            decoder = InOrderDecoder(container, stream)
            stamps, states = list[FrameStamp](), list[State]()
            for frame, state in decoder:
                stamps.append(FrameStamp(frame.pts, frame.dts, frame.duration or 0))
                states.append(state)
        if threads and not decoder.errors and len(stamps) >= len(decoder.announced):
            break
    survey = _Survey(stamps, states, list(range(len(stamps))), decoder.errors, threads, clock)
    silent = stream.codec_context.name in SILENT
    return _with_lost_frames(survey, decoder.announced) if decoder.errors or silent else survey


def _with_lost_frames(survey: _Survey, announced: Sequence[FrameStamp]) -> _Survey:
    """Add the frames that do not decode, if the packets have times and those of the decoded frames are among them.

    Where nothing was reported, frames before the first decoded one are not lost, but depend on what was cut off.
    """
    times = {stamp.pts for stamp in survey.stamps if stamp.pts is not None}
    stamps = {stamp.pts: stamp for stamp in announced if stamp.pts is not None}
    if len(stamps) < len(announced) or len(times) < len(survey.stamps) or not times <= stamps.keys():
        return survey
    decoded = {time: number for number, time in enumerate(sorted(times))}  # near damage, decoders confuse the order
    ordered = [time for time in sorted(stamps) if survey.damaged or time >= min(times, default=0)]
    ordered = _connected(ordered, times, GAP / float(survey.clock.time_base))
    numbers = [decoded.get(time, -1) for time in ordered]
    states = [State.LOST if number < 0 else survey.states[number] for number in numbers]
    damaged = max(survey.damaged, states.count(State.LOST))
    return replace(survey, stamps=[stamps[time] for time in ordered], states=states, numbers=numbers, damaged=damaged)


def _connected(times: list[int], decoded: set[int], gap: float) -> list[int]:
    """Return ascending times without those at both ends that are separated from the decoded ones by a gap.

    They are no times: where a file is damaged, FFmpeg takes other data for packets.
    """
    known = [number for number, time in enumerate(times) if time in decoded]
    if not known:
        return times
    start, end = known[0], known[-1]
    while start > 0 and times[start] - times[start - 1] <= gap:
        start -= 1
    while end + 1 < len(times) and times[end + 1] - times[end] <= gap:
        end += 1
    return times[start : end + 1]
