"""Files of frames that show their own number as bars, in any codec that PyAV encodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 6


def numbered(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Return a frame (height, width, 3) with a bright bar for every set bit of its number."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    return np.repeat(np.array(bits, np.uint8), width // BITS)[None, :, None].repeat(height, 0).repeat(3, 2)


def numbers_shown(frames: Sequence[np.ndarray]) -> list[int]:
    """Return the number that each frame shows, at whatever size."""
    middles = (2 * np.arange(BITS) + 1) / (2 * BITS)
    return [sum(int(f[len(f) // 2, int(m * f.shape[1]), 1] > 127) << b for b, m in enumerate(middles)) for f in frames]


def write_numbered(
    path: Path,
    codec: str = "libx264",
    count: int = 60,
    rate: int = 10,
    size: tuple[int, int] = (32, 48),
    pix_fmt: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    container: str | None = None,
    matrix: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """Write frames 0 to count - 1, at times ticks / rate if given; matrix: display matrix of the file."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), "rgb24")
            frame.pts, frame.time_base = number if ticks is None else ticks[number], Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def remux(source: Path, path: Path, change: Callable[[av.Packet, int], object], **options: str) -> Path:
    """Copy the packets of a video; change(packet, number) may alter each, or return False to drop it."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = (packet for packet in old.demux(old.streams.video[0]) if packet.size)
        for number, packet in enumerate(packets):
            if change(packet, number) is not False:
                packet.stream = stream
                new.mux(packet)
    return path


def damage(path: Path, *packets: int, kept: int = 0) -> Path:
    """Overwrite packets of a file with zeros, except for their first bytes."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    raw = bytearray(path.read_bytes())
    for packet in packets:
        start, size = places[packet]
        raw[start + kept : start + size] = bytes(size - kept)
    path.write_bytes(bytes(raw))
    return path
