"""A few frames of a long video file, evenly over its duration, without decoding or holding the rest (PyAV).

Times of all frames are read from the packets, which are not decoded; then each wanted frame is decoded from the key
frame before it. Where packets do not tell the times, or not those of the decoder, the file is decoded from end to end
instead, and still only the wanted frames are kept.
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


@dataclass(frozen=True, eq=False)
class Sample:
    """T frames of a file.

    Attributes:
        frames: (T, H, W, 3) uint8, turned upright where the file says how it was held.
        times: (T,) float32, seconds after the first frame of the file, ascending.
        total: number of frames in the file.
        duration: seconds from the first frame to the end of the last.
    """

    frames: np.ndarray
    times: np.ndarray
    total: int
    duration: float

    @property
    def fps(self) -> float:
        """Mean frames per second of the file."""
        return self.total / self.duration


@dataclass(frozen=True)
class _Table:
    """Presentation times of all frames in ticks, ascending; per frame the tick to decode it from; length in ticks."""

    ticks: list[int]
    start: dict[int, int]
    span: int


class _Missing(Exception):
    """The decoder did not give a frame that the packets had promised."""


def sample_frames(path: str | os.PathLike[str], frames: int) -> Sample:
    """The frames that are on screen at the middles of `frames` equal stretches of the video.

    A file with no more frames than that gives all of them. One that stays on screen for several middles comes once, so
    that a slide show gives fewer.

    Raises:
        DataError: a file that is missing, damaged or without video, or frames < 1.
    """
    if frames < 1:
        raise DataError(f"frames must be at least 1, not {frames}")
    name = os.fspath(path)
    with _data_errors(name):
        with _opened(name) as (container, stream):
            table = _read_packets(container, stream)
        if table is not None:
            with contextlib.suppress(_Missing):
                return _sample(name, table, frames)
        with _opened(name) as (container, stream):
            table = _decode_times(container, stream)
        return _sample(name, table, frames)


def frames_at(path: str | os.PathLike[str], seconds: Callable[[float], Sequence[float]]) -> Iterator[np.ndarray]:
    """The frames that are on screen at these times, one by one, so that only one is held.

    Args:
        seconds: gets the duration of the file and returns ascending times, from its first frame on.

    Yields:
        (H, W, 3) uint8, upright; one for each time, the same again where it is still on screen.

    Raises:
        DataError: a file that is missing, damaged or without video, or a time before its first frame or behind its end.
    """
    name = os.fspath(path)
    given = 0
    with _data_errors(name):
        with _opened(name) as (container, stream):
            table, clock = _read_packets(container, stream), float(stream.time_base or 1)
        if table is not None:
            with contextlib.suppress(_Missing):
                for pixels in _film(name, table, _shown(name, table, clock, seconds)):
                    yield pixels
                    given += 1
                return
        with _opened(name) as (container, stream):
            table = _decode_times(container, stream)
        yield from itertools.islice(_film(name, table, _shown(name, table, clock, seconds)), given, None)


def _shown(name: str, table: _Table, clock: float, seconds: Callable[[float], Sequence[float]]) -> list[int]:
    """Ticks of the frames on screen at times in seconds."""
    span = table.span * clock
    wanted = np.asarray(seconds(span), np.float64)
    if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < span and (np.diff(wanted) >= 0).all()):
        raise DataError(f"{name} lasts {span:g} s, frames were wanted of {wanted[0]:g} to {wanted[-1]:g} s")
    # A millionth of a tick, so that no rounding takes the frame before one that begins at the very time.
    at = np.floor(wanted / clock + 1e-6).astype(np.int64) + table.ticks[0]
    return [table.ticks[place] for place in np.searchsorted(table.ticks, at, side="right") - 1]


def _film(name: str, table: _Table, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames at ascending ticks, which may repeat."""
    with _opened(name) as (container, stream):
        pixels = _decode(container, stream, table, list(dict.fromkeys(wanted)))
        for frame, (_, same) in zip(pixels, itertools.groupby(wanted), strict=True):
            yield from (frame for _ in same)


@contextlib.contextmanager
def _data_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, IndexError, _Missing) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot decode {name}: {error}") from error


@contextlib.contextmanager
def _opened(name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    with av.open(name, "r") as container:
        if not container.streams.video:
            raise DataError(f"no video stream in {name}")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _read_packets(container: InputContainer, stream: VideoStream) -> _Table | None:
    """Times as the packets say, without decoding; None where they leave some out."""
    start: dict[int, int] = {}
    keys: list[int] = []
    lengths: dict[int, int] = {}
    for packet in container.demux(stream):
        if packet.size == 0:  # the end
            continue
        if packet.pts is None or packet.pts in lengths:
            return None
        if packet.is_keyframe:
            keys.append(packet.pts)
        lengths[packet.pts] = packet.duration or 0
        # A frame that is shown before the last key frame hangs on the one before that.
        before = next((key for key in reversed(keys[-2:]) if key <= packet.pts), None)
        if before is None:
            return None
        if not packet.is_discard:
            start[packet.pts] = before
    return _table(sorted(start), lengths, start, stream) if start else None


def _decode_times(container: InputContainer, stream: VideoStream) -> _Table:
    """Times as the decoder gives them."""
    lengths: dict[int, int] = {}
    for number, frame in enumerate(container.decode(stream)):
        lengths[_tick(frame, number, stream)] = frame.duration or 0
    if not lengths:
        raise DataError(f"no frame could be decoded from {container.name}")
    ticks = sorted(lengths)
    return _table(ticks, lengths, dict.fromkeys(ticks, ticks[0]), stream)


def _tick(frame: Any, number: int, stream: VideoStream) -> int:
    """Presentation time; from the frame's number where the file holds no times, as bare H.264 does."""
    return number * _step(stream) if frame.pts is None else frame.pts


def _step(stream: VideoStream) -> int:
    """Ticks from frame to frame at the mean rate."""
    rate = stream.average_rate and stream.time_base and stream.average_rate * stream.time_base
    return max(1, round(1 / rate)) if rate else 1


def _table(ticks: list[int], lengths: dict[int, int], start: dict[int, int], stream: VideoStream) -> _Table:
    return _Table(ticks, start, ticks[-1] - ticks[0] + (lengths[ticks[-1]] or _step(stream)))


def _choose(table: _Table, frames: int) -> list[int]:
    """Ticks of the frames on screen at the middles; whole numbers, so that no rounding decides."""
    if len(table.ticks) <= frames:
        return table.ticks
    scaled = [2 * frames * (tick - table.ticks[0]) for tick in table.ticks]
    middles = [(2 * i + 1) * table.span for i in range(frames)]
    places = np.searchsorted(scaled, middles, side="right") - 1
    return [table.ticks[place] for place in np.unique(places)]


def _sample(name: str, table: _Table, frames: int) -> Sample:
    wanted = _choose(table, frames)
    with _opened(name) as (container, stream):
        clock = float(stream.time_base or 1)
        pixels = np.stack(list(_decode(container, stream, table, wanted)))
    seconds = np.array([(tick - table.ticks[0]) * clock for tick in wanted], np.float32)
    return Sample(pixels, seconds, len(table.ticks), table.span * clock)


def _decode(
    container: InputContainer, stream: VideoStream, table: _Table, wanted: Sequence[int]
) -> Iterator[np.ndarray]:
    """The wanted frames in RGB; jumps to a key frame wherever one lies between a wanted frame and the next."""
    to_rgb, at = VideoReformatter(), table.ticks[0]
    found, number = 0, 0  # frames given, and decoded
    while found < len(wanted):
        if table.start[wanted[found]] > at:
            container.seek(table.start[wanted[found]], stream=stream)
        for frame in container.decode(stream):
            at, number = _tick(frame, number, stream), number + 1
            if at > wanted[found]:
                raise _Missing(f"there is no frame at tick {wanted[found]}")
            if at < wanted[found]:
                continue
            yield _upright(to_rgb.reformat(frame, format="rgb24").to_ndarray(), frame.rotation)
            found += 1
            if found == len(wanted) or table.start[wanted[found]] > at:
                break
        else:
            raise _Missing(f"the video ends before tick {wanted[found]}")


def _upright(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Turn a frame as its file says: counterclockwise, by quarters."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90) % 4)) if degrees % 90 == 0 else pixels
