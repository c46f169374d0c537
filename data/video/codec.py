"""Frames and timestamps to mp4 bytes and back, through PyAV (which brings its own FFmpeg; no system library is needed).

Shapes: T frames, H W pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from framefold.errors import DataError

CLOCK = Fraction(1, 1000)  # timestamps are stored in milliseconds

# With B-frames x264 writes one of several files for the same frames, a different one now and then (measured).
LOSSY = {"preset": "veryfast", "bf": "0"}

LOSSLESS = {"preset": "ultrafast", "qp": "0"}

BITEXACT = 1 << 23  # AV_CODEC_FLAG_BITEXACT: no version or date goes into the file, so equal frames give equal bytes


def encode_video(frames: np.ndarray, times: np.ndarray, crf: int = 18) -> bytes:
    """H.264 in mp4, the same bytes for the same input.

    Args:
        frames: (T, H, W, 3) uint8.
        times: (T,) seconds, ascending, at least a millisecond apart.
        crf: quality of x264, 1 (best) to 51; 0 is lossless RGB. 4:4:4 throughout: halved chroma smears small shapes.

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
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264" if crf else "libx264rgb", rate=_rate(ticks))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv444p" if crf else "rgb24"
            stream.options = {**LOSSY, "crf": str(crf)} if crf else {**LOSSLESS}
            stream.codec_context.thread_count = 1  # several threads may split the bits differently
            stream.codec_context.flags |= BITEXACT
            stream.codec_context.time_base = CLOCK
            for pixels, tick in zip(frames, ticks, strict=True):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base = int(tick), CLOCK
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"cannot encode {frames.shape} frames: {error}") from error
    return buffer.getvalue()


def _rate(ticks: np.ndarray) -> Fraction:
    """Frames per second; only x264's rate control looks at it, the timestamps are what counts."""
    step = int(np.median(np.diff(ticks))) if len(ticks) > 1 else 1000
    return 1 / (step * CLOCK)


def decode(
    source: bytes | str | os.PathLike[str], wanted: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a video, in order of time.

    Args:
        source: the bytes of a file, or its path.
        wanted: numbers of the frames to return, so that only those are held; None: all.

    Returns:
        frames (T, H, W, 3) uint8, and the times in seconds, float32, of all frames of the file.

    Raises:
        DataError: missing, damaged, or without a video stream.
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else name, "r") as container:
            if not container.streams.video:
                raise DataError(f"no video stream in {name}")
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1  # workers are the parallelism
            to_rgb = VideoReformatter()  # one for all frames: making one per frame takes half of the decoding time
            frames, times = [], []
            chosen = None if wanted is None else frozenset(wanted)
            for number, frame in enumerate(container.decode(stream)):
                if chosen is None or number in chosen:
                    frames.append(to_rgb.reformat(frame, format="rgb24").to_ndarray())
                times.append(0.0 if frame.time is None else frame.time)
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot decode {name}: {error}") from error
    if not frames:
        raise DataError(f"no frame could be decoded from {name}")
    return np.stack(frames), np.array(times, np.float32)


def evenly(times: np.ndarray, most: int) -> list[int]:
    """Numbers of the frames that are on screen at the middles of `most` equal stretches of a video.

    A video of no more frames than that gives all of them. A frame that stays for several middles comes once.

    Args:
        times: (T,) seconds of its frames, ascending.

    Raises:
        DataError: most < 1.
    """
    if most < 1:
        raise DataError(f"frames must be at least 1, not {most}")
    if len(times) <= most:
        return list(range(len(times)))
    # Whole numbers, so that no rounding decides.
    ticks = np.round((np.asarray(times, np.float64) - float(times[0])) / float(CLOCK)).astype(np.int64)
    span = int(ticks[-1]) + int(np.median(np.diff(ticks)))
    middles = (2 * np.arange(most) + 1) * span
    return np.unique(np.searchsorted(2 * most * ticks, middles, side="right") - 1).tolist()
