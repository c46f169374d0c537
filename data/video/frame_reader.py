"""Selected frames of a long video file, without storing the others (PyAV).

In ordinary files, only what the requested frames depend on is decoded (:mod:`.seeking`). Files without seeking, with
missing or wrong times, or with damage are decoded completely (:mod:`.in_order`); even then only the requested frames
are kept in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from framefold.errors import DataError

from .in_order import InOrderReader
from .main_stream import open_video
from .picture import FrameConverter
from .seeking import FrameNotDecodedError, SeekingReader, read_packets

Reader = SeekingReader | InOrderReader


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """T frames of a video file.

    Attributes:
        frames: (T, H, W, 3) uint8, upright, all at the size of the file's first frame.
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


def sample_frames(path: str | os.PathLike[str], frames: int, max_pixels: int | None = None) -> SampledFrames:
    """Read the frames on screen at the midpoints of `frames` equal intervals of the video.

    A frame that is on screen at several midpoints is returned once, so a slide show gives fewer frames. A file of at
    most `frames` frames gives them all. A frame that does not decode is replaced by the nearest one that does, with a
    warning.

    Args:
        path: video file, or a pipe with the contents of one.
        frames: number of intervals.
        max_pixels: shrink larger frames to this number of pixels while they are read, with the same proportions.

    Raises:
        DataError: the file is missing or has no video or nothing of it can be decoded, or frames < 1.
    """
    if frames < 1:
        raise DataError(f"frames must be at least 1, not {frames}")
    with _data_errors(path), _seekable(path) as name:
        for reader in _readers(name):
            with contextlib.suppress(FrameNotDecodedError):
                return _sample(reader, frames, FrameConverter(max_pixels))
    raise AssertionError("the last reader returns frames or raises DataError")


def frames_at(
    path: str | os.PathLike[str], seconds: Callable[[float], Sequence[float]], tolerance: float = math.inf
) -> Iterator[np.ndarray]:
    """Yield the frames on screen at given times, one at a time.

    A frame that does not decode is replaced by the nearest one that does, with a warning.

    Args:
        path: video file, or a pipe with the contents of one.
        seconds: called with the duration of the file; returns ascending times, counted from the first frame. Called
            again, with a more exact duration, if the file turns out to be damaged or not to permit seeking.
        tolerance: seconds between a frame that does not decode and the one that replaces it, at most.

    Yields:
        (H, W, 3) uint8, upright, all of one size; one frame per time, repeated if it is still on screen.

    Raises:
        DataError: the file is missing or has no video or nothing of it can be decoded, a time is before its first frame
            or after its end, or no good frame is within the tolerance.
    """
    yielded = 0
    with _data_errors(path), _seekable(path) as name:
        for reader in _readers(name):
            with contextlib.suppress(FrameNotDecodedError):
                wanted = _on_screen(os.fspath(path), reader, seconds)
                positions = reader.available(wanted)
                _check_distance(os.fspath(path), reader, wanted, positions, tolerance)
                for pixels in itertools.islice(_repeated(reader, positions), yielded, None):
                    yield pixels
                    yielded += 1
                return


@contextlib.contextmanager
def _data_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, IndexError, FrameNotDecodedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot decode {os.fspath(path)}: {error}") from error


@contextlib.contextmanager
def _seekable(path: str | os.PathLike[str]) -> Iterator[str]:
    """Return the name of a file that can be read twice: a pipe is copied to a temporary file."""
    name = os.fspath(path)
    if not os.path.exists(name) or not stat.S_ISFIFO(os.stat(name).st_mode):
        yield name
        return
    with tempfile.NamedTemporaryFile(suffix=Path(name).suffix) as copy:
        with open(name, "rb") as pipe:
            shutil.copyfileobj(pipe, copy)
        copy.flush()
        yield copy.name


def _readers(name: str) -> Iterator[Reader]:
    """Yield the readers of a file: the second one if the first one raises FrameNotDecodedError."""
    with open_video(name) as (container, stream):
        table = read_packets(container, stream)
    if table is not None:
        yield SeekingReader(name, table)
    yield InOrderReader(name)


def _sample(reader: Reader, frames: int, converter: FrameConverter) -> SampledFrames:
    positions = list(dict.fromkeys(reader.available(_at_midpoints(reader, frames))))
    pictures = reader.decode(positions, converter)
    first = next(pictures)
    pixels = np.empty((len(positions), *first.shape), np.uint8)
    pixels[0] = first
    for number, picture in enumerate(pictures, 1):
        pixels[number] = picture
    clock, ticks = float(reader.clock), reader.ticks
    times = np.array([(ticks[position] - ticks[0]) * clock for position in positions], np.float32)
    return SampledFrames(pixels, times, reader.total, reader.span * clock)


def _at_midpoints(reader: Reader, frames: int) -> list[int]:
    """Return the positions of the frames on screen at the midpoints; integers, so that rounding has no influence."""
    if len(reader.ticks) <= frames:
        return list(range(len(reader.ticks)))
    scaled = [2 * frames * (tick - reader.ticks[0]) for tick in reader.ticks]
    midpoints = [(2 * i + 1) * reader.span for i in range(frames)]
    return np.unique(np.searchsorted(scaled, midpoints, side="right") - 1).tolist()


def _on_screen(name: str, reader: Reader, seconds: Callable[[float], Sequence[float]]) -> list[int]:
    """Return the positions of the frames on screen at times in seconds."""
    clock = float(reader.clock)
    span = reader.span * clock
    times = np.asarray(seconds(span), np.float64)
    if len(times) and not (times[0] >= 0 and times[-1] < span and (np.diff(times) >= 0).all()):
        raise DataError(f"{name} lasts {span:g} s, but frames at {times[0]:g} to {times[-1]:g} s were requested")
    # A millionth of a tick is added, so that rounding never selects the frame before one that starts at exactly a time.
    at = np.floor(times / clock + 1e-6).astype(np.int64) + reader.ticks[0]
    return (np.searchsorted(reader.ticks, at, side="right") - 1).tolist()


def _check_distance(
    name: str, reader: Reader, wanted: Sequence[int], positions: Sequence[int], tolerance: float
) -> None:
    """Refuse to replace a frame by one that is further away than the tolerance in seconds."""
    for one, other in zip(wanted, positions, strict=True):
        away = abs(reader.ticks[one] - reader.ticks[other]) * float(reader.clock)
        if away > tolerance:
            at = (reader.ticks[one] - reader.ticks[0]) * float(reader.clock)
            raise DataError(f"{name} is damaged at {at:g} s: the nearest good frame is {away:g} s away")


def _repeated(reader: Reader, positions: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames at ascending positions, which may repeat."""
    pictures = reader.decode(list(dict.fromkeys(positions)), FrameConverter())
    for picture, (_, repeats) in zip(pictures, itertools.groupby(positions), strict=True):
        yield from (picture for _ in repeats)
