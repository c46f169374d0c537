"""Encoding frames and timestamps to mp4, and decoding them (PyAV, which includes FFmpeg).

Shapes: T frames of H W pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from framefold.errors import DataError

from .clock import FrameStamp, StreamClock, ascending_ticks
from .main_stream import open_video
from .picture import FrameConverter

CLOCK = Fraction(1, 1000)  # timestamps are stored in milliseconds

# With these settings the bytes depend on the frames alone. On CPUs with AVX-512, x264's macroblock tree (mbtree) reads
# uninitialised memory unless the width is a multiple of 128; on others it rounds differently. B-frames use it most.
# For 4:4:4, x264 raises the quantiser of chroma by 6; raising it by 3 gives less error in RGB at the same size.
LOSSY = {"preset": "veryfast", "bf": "0", "mbtree": "0", "chromaoffset": "-3"}

CRF_OFFSET = 2  # added to crf, so that files are about as large as under the defaults of x264

LOSSLESS = {"preset": "ultrafast", "qp": "0"}

BITEXACT = 1 << 23  # AV_CODEC_FLAG_BITEXACT: the file holds no version and no date, so equal frames give equal bytes


def encode_video(frames: np.ndarray, times: np.ndarray, crf: int = 18) -> bytes:
    """Encode frames as H.264 in mp4; equal input gives equal bytes.

    Chroma is stored at full resolution (4:4:4), because subsampled chroma blurs small shapes.

    Args:
        frames: (T, H, W, 3) uint8.
        times: (T,) seconds, ascending, at least a millisecond apart.
        crf: quality, from 1 (best) to 51, on the scale of x264's constant rate factor; 0 stores lossless RGB.

    Returns:
        The bytes of the mp4 file.

    Raises:
        DataError: wrong shapes or dtype, times that do not ascend, crf out of range, or an FFmpeg without x264.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise DataError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    if not 0 <= crf <= 51:
        raise DataError(f"crf must be between 0 (lossless) and 51, not {crf}")
    ticks = np.round(np.asarray(times, np.float64) / float(CLOCK)).astype(np.int64)
    if ticks.shape != frames.shape[:1] or (np.diff(ticks) <= 0).any():
        raise DataError(f"times must be {len(frames)} ascending seconds, at least a millisecond apart")
    try:
        return _encode_mp4(frames, ticks, crf)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"cannot encode {frames.shape} frames: {error}") from error


def _encode_mp4(frames: np.ndarray, ticks: np.ndarray, crf: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264" if crf else "libx264rgb", rate=_rate(ticks))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p" if crf else "rgb24"
        stream.options = {**LOSSY, "crf": str(min(crf + CRF_OFFSET, 51))} if crf else {**LOSSLESS}
        stream.codec_context.thread_count = 1  # the bytes may depend on the number of threads
        stream.codec_context.flags |= BITEXACT
        stream.codec_context.time_base = CLOCK
        for pixels, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = int(tick), CLOCK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _rate(ticks: np.ndarray) -> Fraction:
    """Return frames per second; only the rate control of x264 uses it, playback follows the timestamps."""
    step = int(np.median(np.diff(ticks))) if len(ticks) > 1 else 1000
    return 1 / (step * CLOCK)


def decode_video(
    source: bytes | str | os.PathLike[str], frame_numbers: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decode the frames of a video in temporal order, upright and at the size of the first one.

    Args:
        source: the bytes of a file, or its path.
        frame_numbers: numbers of the frames to return; only these are kept in memory. None returns all frames.

    Returns:
        Frames (T, H, W, 3) uint8, and the times of all frames of the file in seconds, float32.

    Raises:
        DataError: the file is missing or damaged, or has no video stream.
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
    frames, stamps = list[np.ndarray](), list[FrameStamp]()
    chosen = None if frame_numbers is None else frozenset(frame_numbers)
    try:
        with open_video(source, threads=False) as (container, stream):  # loader workers already run in parallel
            converter, clock = FrameConverter(), StreamClock.of(container, stream)
            for number, frame in enumerate(container.decode(stream)):
                converter.set_size(frame)
                if chosen is None or number in chosen:
                    frames.append(converter(frame))
                stamps.append(FrameStamp(frame.pts, frame.dts, frame.duration or 0))
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot decode {name}: {error}") from error
    if not frames:
        raise DataError(f"no frame could be decoded from {name}")
    ticks, _, second = ascending_ticks(stamps, clock)
    return np.stack(frames), (np.array(ticks) * float(second)).astype(np.float32)


def evenly_spaced(times: np.ndarray, count: int) -> list[int]:
    """Return the numbers of the frames on screen at the midpoints of `count` equal intervals of a video.

    A frame that is on screen at several midpoints is returned once. A video of at most `count` frames gives them all.

    Args:
        times: (T,) seconds of the frames, ascending.
        count: number of intervals.

    Raises:
        DataError: count < 1.
    """
    if count < 1:
        raise DataError(f"frames must be at least 1, not {count}")
    if len(times) <= count:
        return list(range(len(times)))
    # Integer arithmetic, so that the choice does not depend on rounding.
    ticks = np.round((np.asarray(times, np.float64) - float(times[0])) / float(CLOCK)).astype(np.int64)
    span = int(ticks[-1]) + int(np.median(np.diff(ticks)))
    midpoints = (2 * np.arange(count) + 1) * span
    return np.unique(np.searchsorted(2 * count * ticks, midpoints, side="right") - 1).tolist()
