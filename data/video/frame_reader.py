"""Selected frames of a long video file, without decoding or storing the others (PyAV).

The times of all frames are read from the packets, which are not decoded. Each requested frame is then decoded from the
key frame before it. If the packets have no times, or times that differ from those of the decoder, the complete file is
decoded instead; even then only the requested frames are kept in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from framefold.errors import DataError

from .container import open_container


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """T frames of a video file.

    Attributes:
        frames: (T, H, W, 3) uint8, rotated upright if the file stores a rotation.
        times: (T,) float32, seconds after the first frame of the file, ascending.
        total: number of frames in the file.
        duration: seconds from the first frame to the end of the last one.
    """

    frames: np.ndarray
    times: np.ndarray
    total: int
    duration: float

    @property
    def fps(self) -> float:
        """Mean number of frames per second of the file."""
        return self.total / self.duration


@dataclass(frozen=True)
class _FrameTable:
    """Presentation times of the frames of a file.

    Attributes:
        ticks: presentation time of every frame in units of the stream's time base, ascending.
        start: tick of the key frame from which a frame must be decoded, by tick of the frame.
        span: duration in ticks.
    """

    ticks: list[int]
    start: dict[int, int]
    span: int


class _FrameNotDecodedError(Exception):
    """The decoder did not return a frame that the packets announced."""


def sample_frames(path: str | os.PathLike[str], frames: int) -> SampledFrames:
    """Read the frames on screen at the midpoints of `frames` equal intervals of the video.

    A frame that is on screen at several midpoints is returned once, so a slide show gives fewer frames. A file of at
    most `frames` frames gives them all.

    Raises:
        DataError: the file is missing or damaged or has no video, or frames < 1.
    """
    if frames < 1:
        raise DataError(f"frames must be at least 1, not {frames}")
    name = os.fspath(path)
    with _data_errors(name):
        with _opened(name) as (container, stream):
            table = _read_packets(container, stream)
        if table is not None:
            with contextlib.suppress(_FrameNotDecodedError):
                return _sample(name, table, frames)
        with _opened(name) as (container, stream):
            table = _decode_times(container, stream)
        return _sample(name, table, frames)


def frames_at(path: str | os.PathLike[str], seconds: Callable[[float], Sequence[float]]) -> Iterator[np.ndarray]:
    """Yield the frames on screen at given times, one at a time.

    Args:
        path: video file.
        seconds: called with the duration of the file; returns ascending times, counted from the first frame.

    Yields:
        (H, W, 3) uint8, upright; one frame per time, repeated if it is still on screen.

    Raises:
        DataError: the file is missing or damaged or has no video, or a time is before its first frame or after its end.
    """
    name = os.fspath(path)
    yielded = 0
    with _data_errors(name):
        with _opened(name) as (container, stream):
            table, clock = _read_packets(container, stream), float(stream.time_base or 1)
        if table is not None:
            with contextlib.suppress(_FrameNotDecodedError):
                for pixels in _frames_at_ticks(name, table, _ticks_on_screen(name, table, clock, seconds)):
                    yield pixels
                    yielded += 1
                return
        with _opened(name) as (container, stream):
            table = _decode_times(container, stream)
        ticks = _ticks_on_screen(name, table, clock, seconds)
        yield from itertools.islice(_frames_at_ticks(name, table, ticks), yielded, None)


def _ticks_on_screen(
    name: str, table: _FrameTable, clock: float, seconds: Callable[[float], Sequence[float]]
) -> list[int]:
    """Return the ticks of the frames on screen at times in seconds; clock: seconds per tick."""
    span = table.span * clock
    times = np.asarray(seconds(span), np.float64)
    if len(times) and not (times[0] >= 0 and times[-1] < span and (np.diff(times) >= 0).all()):
        raise DataError(f"{name} lasts {span:g} s, but frames at {times[0]:g} to {times[-1]:g} s were requested")
    # A millionth of a tick is added, so that rounding never selects the frame before one that starts at exactly a time.
    at = np.floor(times / clock + 1e-6).astype(np.int64) + table.ticks[0]
    return [table.ticks[position] for position in np.searchsorted(table.ticks, at, side="right") - 1]


def _frames_at_ticks(name: str, table: _FrameTable, ticks: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames at ascending ticks; ticks may repeat."""
    with _opened(name) as (container, stream):
        pixels = _decode(container, stream, table, list(dict.fromkeys(ticks)))
        for frame, (_, repeats) in zip(pixels, itertools.groupby(ticks), strict=True):
            yield from (frame for _ in repeats)


@contextlib.contextmanager
def _data_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, IndexError, _FrameNotDecodedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot decode {name}: {error}") from error


@contextlib.contextmanager
def _opened(name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    with open_container(name) as container:
        if not container.streams.video:
            raise DataError(f"no video stream in {name}")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _read_packets(container: InputContainer, stream: VideoStream) -> _FrameTable | None:
    """Read the times from the packets, without decoding; return None if they are incomplete."""
    start: dict[int, int] = {}
    keys: list[int] = []
    lengths: dict[int, int] = {}
    for packet in container.demux(stream):
        if packet.size == 0:  # end of the stream
            continue
        if packet.pts is None or packet.pts in lengths:
            return None
        if packet.is_keyframe:
            keys.append(packet.pts)
        lengths[packet.pts] = packet.duration or 0
        # A frame that is shown before the last key frame depends on the key frame before that one.
        before = next((key for key in reversed(keys[-2:]) if key <= packet.pts), None)
        if before is None:
            return None
        if not packet.is_discard:
            start[packet.pts] = before
    return _table(sorted(start), lengths, start, stream) if start else None


def _decode_times(container: InputContainer, stream: VideoStream) -> _FrameTable:
    """Read the times from the decoder, which decodes the complete file."""
    lengths: dict[int, int] = {}
    for number, frame in enumerate(container.decode(stream)):
        lengths[_tick(frame, number, stream)] = frame.duration or 0
    if not lengths:
        raise DataError(f"no frame could be decoded from {container.name}")
    ticks = sorted(lengths)
    return _table(ticks, lengths, dict.fromkeys(ticks, ticks[0]), stream)


def _tick(frame: Any, number: int, stream: VideoStream) -> int:
    """Return the presentation time of a frame; derived from its number if the file has no times (raw H.264)."""
    return number * _step(stream) if frame.pts is None else frame.pts


def _step(stream: VideoStream) -> int:
    """Return the ticks between two frames at the mean rate."""
    rate = stream.average_rate and stream.time_base and stream.average_rate * stream.time_base
    return max(1, round(1 / rate)) if rate else 1


def _table(ticks: list[int], lengths: dict[int, int], start: dict[int, int], stream: VideoStream) -> _FrameTable:
    return _FrameTable(ticks, start, ticks[-1] - ticks[0] + (lengths[ticks[-1]] or _step(stream)))


def _ticks_at_midpoints(table: _FrameTable, frames: int) -> list[int]:
    """Return the ticks of the frames on screen at the midpoints; integers, so that rounding has no influence."""
    if len(table.ticks) <= frames:
        return table.ticks
    scaled = [2 * frames * (tick - table.ticks[0]) for tick in table.ticks]
    midpoints = [(2 * i + 1) * table.span for i in range(frames)]
    positions = np.searchsorted(scaled, midpoints, side="right") - 1
    return [table.ticks[position] for position in np.unique(positions)]


def _sample(name: str, table: _FrameTable, frames: int) -> SampledFrames:
    ticks = _ticks_at_midpoints(table, frames)
    with _opened(name) as (container, stream):
        clock = float(stream.time_base or 1)
        pixels = np.stack(list(_decode(container, stream, table, ticks)))
    seconds = np.array([(tick - table.ticks[0]) * clock for tick in ticks], np.float32)
    return SampledFrames(pixels, seconds, len(table.ticks), table.span * clock)


def _decode(
    container: InputContainer, stream: VideoStream, table: _FrameTable, ticks: Sequence[int]
) -> Iterator[np.ndarray]:
    """Yield the frames at ascending ticks in RGB; seek if a key frame lies between one requested frame and the next."""
    to_rgb, at = VideoReformatter(), table.ticks[0]
    yielded = decoded = 0
    while yielded < len(ticks):
        if table.start[ticks[yielded]] > at:
            container.seek(table.start[ticks[yielded]], stream=stream)
        for frame in container.decode(stream):
            at, decoded = _tick(frame, decoded, stream), decoded + 1
            if at > ticks[yielded]:
                raise _FrameNotDecodedError(f"there is no frame at tick {ticks[yielded]}")
            if at < ticks[yielded]:
                continue
            yield _upright(to_rgb.reformat(frame, format="rgb24").to_ndarray(), frame.rotation)
            yielded += 1
            if yielded == len(ticks) or table.start[ticks[yielded]] > at:
                break
        else:
            raise _FrameNotDecodedError(f"the video ends before tick {ticks[yielded]}")


def _upright(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate a frame counterclockwise by the angle stored in its file, a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90) % 4)) if degrees % 90 == 0 else pixels
